"""The one recursion over scales against plain loops."""

import pytest
import torch
from torch.nn import functional as F

from nextscale import ScaleSchedule
from nextscale.tokenizer.residual import accumulate, downsample, flatten_map, next_scale_inputs, upsample
from nextscale.training.exactness import deterministic


def test_accumulate_is_a_running_sum() -> None:
    schedule = ScaleSchedule([(1, 2), (2, 2), (2, 4)])
    maps = [torch.randn(2, 3, *size) for size in schedule]
    states = list(accumulate(torch.zeros(2, 3, 2, 4), schedule, lambda k, _: maps[k], lambda k, u: u * (k + 1)))
    total = torch.zeros(2, 3, 2, 4)
    for scale, state in enumerate(states):
        grown = maps[scale] if scale == 2 else F.interpolate(maps[scale], size=(2, 4), mode="bicubic")
        total = total + grown * (scale + 1)
        torch.testing.assert_close(state.accumulated, total)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 4), (5, 7), (13, 13)])
def test_products_upsample_like_torch(size: tuple[int, int]) -> None:
    embeddings, upstream = torch.randn(2, 3, *size, requires_grad=True), torch.randn(2, 3, 13, 16)
    wanted = F.interpolate(embeddings, size=(13, 16), mode="bicubic")
    with deterministic(True):
        given = upsample(embeddings, (13, 16))
        assert torch.equal(upsample(embeddings.detach(), (13, 16)), wanted), "tokens are found with torch's own"
    torch.testing.assert_close(given, wanted, atol=1e-6, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(one, embeddings, upstream)[0] for one in (given, wanted))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert given.grad_fn is not None and "Upsample" not in given.grad_fn.name()


def test_a_sent_tensor_replaces_the_sum() -> None:
    schedule = ScaleSchedule([1, 2])
    seen = []

    def choose(scale: int, accumulated: torch.Tensor) -> torch.Tensor:
        seen.append(accumulated)
        return torch.zeros(1, 1, *schedule[scale])

    states = accumulate(torch.zeros(1, 1, 2, 2), schedule, choose, lambda _, u: u)
    next(states)
    states.send(torch.ones(1, 1, 2, 2))
    assert seen[1].sum() == 4


def test_resizing_is_the_identity_at_equal_size() -> None:
    features = torch.randn(1, 2, 3, 5)
    assert downsample(features, (3, 5)) is features
    assert upsample(features, (3, 5)) is features


def test_downsample_is_the_mean_of_areas() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(downsample(features, (2, 2)).flatten(), torch.tensor([2.5, 4.5, 10.5, 12.5]))
    torch.testing.assert_close(downsample(features, (1, 1)).flatten(), torch.tensor([7.5]))


def test_next_scale_inputs_show_only_coarser_scales() -> None:
    schedule = ScaleSchedule([1, 2, 3])
    maps = [torch.randn(2, 4, *size) for size in schedule]
    inputs = next_scale_inputs(
        accumulate(torch.zeros(2, 4, 3, 3), schedule, lambda k, _: maps[k], lambda _, u: u), schedule
    )
    assert inputs.shape == (2, 4 + 9, 4)
    first = F.interpolate(maps[0], size=(3, 3), mode="bicubic")
    torch.testing.assert_close(inputs[:, :4], flatten_map(F.interpolate(first, size=(2, 2), mode="area")))
    second = first + F.interpolate(maps[1], size=(3, 3), mode="bicubic")
    torch.testing.assert_close(inputs[:, 4:], flatten_map(second))


def test_a_single_scale_has_no_inputs() -> None:
    schedule = ScaleSchedule([2])
    states = accumulate(torch.zeros(3, 4, 2, 2), schedule, lambda k, _: torch.zeros(3, 4, 2, 2), lambda _, u: u)
    assert next_scale_inputs(states, schedule).shape == (3, 0, 4)
