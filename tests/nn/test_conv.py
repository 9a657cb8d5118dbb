"""The part-by-part normalisation against torch's, and against float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nextscale.nn import conv
from nextscale.nn.conv import group_norm_silu


@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (48, 16)])
def test_parts_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, channels: int, groups: int) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, channels, eps=1e-6).requires_grad_(False)
    norm.weight.normal_()
    norm.bias.normal_()
    x = (torch.randn(2, channels, 20, 12) * 3 + 5).contiguous(memory_format=torch.channels_last)
    plain = group_norm_silu(x, norm)
    exact = F.silu(norm.double()(x.double()))
    norm.float()
    monkeypatch.setattr(conv, "SPLIT", 1)
    monkeypatch.setattr(conv, "PART_BYTES", 4 * channels * 7)
    with torch.no_grad():
        found = group_norm_silu(x, norm)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), exact, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(plain.double(), exact, atol=1e-5, rtol=1e-5)


def test_large_maps_lose_less_than_in_torch() -> None:
    torch.manual_seed(0)
    x = (torch.randn(1, 64, 256, 256) + 3).contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(32, 64, eps=1e-6).requires_grad_(False)
    exact = F.silu(norm.double()(x.double()))
    norm.float()
    with torch.no_grad():
        error = (group_norm_silu(x, norm) - exact).abs().max()
    assert error < 3e-6
    assert error < (F.silu(norm(x)) - exact).abs().max()


def test_the_number_of_threads_changes_nothing() -> None:
    torch.manual_seed(0)
    x = (torch.randn(1, 128, 32, 32) * 3 + 5).contiguous(memory_format=torch.channels_last)
    norm, threads, found = nn.GroupNorm(32, 128, eps=1e-6).requires_grad_(False), torch.get_num_threads(), []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            with torch.no_grad():
                found.append(group_norm_silu(x, norm))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_gradients_take_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "SPLIT", 1)
    x = torch.randn(1, 8, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    group_norm_silu(x, nn.GroupNorm(2, 8)).sum().backward()
    assert x.grad is not None
