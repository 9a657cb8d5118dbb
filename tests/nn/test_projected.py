"""The projected discriminator: what it reads is frozen, what it learns is its heads."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import get_model, mobilenet_v2

from nextscale.nn.projected import (
    ProjectedDiscriminator,
    adversarial_loss,
    blurred,
    hinge_loss,
    strided_layers,
)


@pytest.fixture(scope="module")
def discriminator() -> ProjectedDiscriminator:
    torch.manual_seed(0)
    return ProjectedDiscriminator(mobilenet_v2(weights=None), torch.rand(4, 5), resize=128, width=16)


def test_features_are_found_in_any_backbone_with_four_strides() -> None:
    layers = {name: strided_layers(get_model(name, weights=None)) for name in ("resnet18", "mobilenet_v3_small")}
    assert [name for name, _ in layers["resnet18"].values()] == ["layer1", "layer2", "layer3", "layer4"]
    assert [channels for _, channels in layers["resnet18"].values()] == [64, 128, 256, 512]
    assert list(layers["mobilenet_v3_small"]) == [4, 8, 16, 32]
    with pytest.raises(ValueError, match="none at 4, 8, 16, 32; take another"):
        strided_layers(get_model("squeezenet1_1", weights=None))


def test_training_changes_the_heads_alone(discriminator: ProjectedDiscriminator) -> None:
    discriminator.train()
    frozen = {name: value.clone() for name, value in discriminator.projector.state_dict().items()}
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    scores = discriminator(images, torch.tensor([0, 1, 2, 0]))
    assert len(scores) == 4 and all(len(one) == 4 for one in scores)
    adversarial_loss(scores).backward()
    assert images.grad is not None and images.grad.abs().max() > 0, "the generator learns through the frozen network"
    assert all(parameter.grad is None for parameter in discriminator.projector.parameters())
    assert all(parameter.grad is not None for parameter in discriminator.heads.parameters())
    assert all(torch.equal(frozen[name], value) for name, value in discriminator.projector.state_dict().items())
    assert not any(module.training for module in discriminator.projector.modules())
    assert discriminator.heads[0].training


def test_scores_depend_on_the_class(discriminator: ProjectedDiscriminator) -> None:
    discriminator.eval()
    with torch.no_grad():
        images = torch.randn(1, 3, 32, 32)
        one, other = (discriminator(images, torch.tensor([label])) for label in (0, 1))
    assert all((a != b).any() for a, b in zip(one, other, strict=True))


def test_losses_are_sums_over_heads() -> None:
    real, fake = (
        [torch.tensor([[2.0], [0.5]]), torch.tensor([[0.0]])],
        [torch.tensor([[-3.0], [1.0]]), torch.ones(1, 1)],
    )
    assert hinge_loss(real, fake) == (0.25 + 1.0) + (1.0 + 2.0)
    assert adversarial_loss(fake) == 1.0 - 1.0


def test_blur_spreads_and_fades() -> None:
    images = torch.zeros(1, 2, 21, 21)
    images[0, 1, 10, 10] = 1.0
    spread = blurred(images, 2.0)
    assert spread[0, 0].abs().max() == 0 and spread[0, 1].sum() == pytest.approx(1, abs=1e-5)
    assert spread[0, 1, 10, 12] / spread[0, 1, 10, 10] == pytest.approx(0.5, abs=1e-5)
    assert torch.equal(blurred(images, 0.3), images)


def test_small_images_need_enlarging() -> None:
    with pytest.raises(ValueError, match="128 pixels or more, a multiple of 32, not 64"):
        ProjectedDiscriminator(mobilenet_v2(weights=None), None, resize=64)


def test_a_backbone_of_one_size_of_images_is_refused() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            torch._assert(images.shape[2] == 224, "Wrong image height!")
            return images

    with pytest.raises(ValueError, match="Wrong image height"):
        strided_layers(Fixed())
