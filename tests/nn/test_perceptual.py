"""The perceptual distance: its random shifts, and LPIPS against torchmetrics'."""

from pathlib import Path

import pytest
import torch
from torchvision.models import vgg16

from nextscale.nn.perceptual import PerceptualDistance, mirrored, shifted
from nextscale.training.exactness import deterministic


def test_both_batches_move_alike_with_mirrored_edges() -> None:
    torch.manual_seed(0)
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)
    seen = set()
    for _ in range(200):
        a, b = shifted((images, images + 1000), 2)
        assert torch.equal(a + 1000, b)
        padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[..., y : y + 8, x : x + 8], a)]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) == 25


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (2, 0, 0, 3), (0, 1, 2, 0), (3, 2, 1, 4)])
def test_edges_are_mirrored_alike_where_gradients_must_repeat(margins: tuple[int, int, int, int]) -> None:
    images, upstream = torch.randn(2, 3, 6, 7, requires_grad=True), torch.randn(2, 3, 20, 20)
    results = []
    for wanted in (False, True):
        with deterministic(wanted):
            wider = mirrored(images, margins)
            (gradient,) = torch.autograd.grad(wider, images, upstream[..., : wider.shape[2], : wider.shape[3]])
        results.append((wider, gradient))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_lpips_is_that_of_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: None)  # nobody reads the 124 million
    monkeypatch.setattr(torch.nn.init, "normal_", lambda tensor, *_, **__: tensor)  # weights of the classifier
    torch.manual_seed(0)
    backbone = vgg16(weights=None).eval()
    state = backbone.state_dict()
    empty = {name: torch.zeros(1).expand(value.shape) for name, value in state.items() if "classifier" in name}
    torch.save(state | empty, tmp_path / "vgg16.pth")
    reference = lpips._LPIPS(pretrained=True, net="vgg", pnet_rand=True).eval()
    for name, parameter in reference.net.named_parameters():  # slices of vgg16's features, under their numbers
        parameter.data.copy_(backbone.features.get_parameter(name.split(".", 1)[1]))
    ours = PerceptualDistance("lpips", weights=tmp_path / "vgg16.pth")
    images, targets = (torch.rand(3, 3, 64, 48) * 2 - 1 for _ in range(2))
    images.requires_grad_()
    expected = reference(images, targets).mean()
    found = ours(images, targets)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    ours_grad, reference_grad = (torch.autograd.grad(value, images)[0] for value in (found, expected))
    # As a whole: where an activation is nearly zero, kernels of different processors may disagree about its sign.
    assert (ours_grad - reference_grad).norm() < 1e-2 * reference_grad.norm()
