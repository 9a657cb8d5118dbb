"""The kernels of the convolutional tokenizer against float64; in Triton's interpreter where there is no GPU."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn import conv
from nextscale.nn.conv import Decoder, ResidualBlock, Upsample, channels_last, few_outputs
from nextscale.nn.conv_kernels import bicubic, group_norm, residual_sum
from nextscale.runtime import exact_float32

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def map_of(*shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.0) -> Tensor:
    x = torch.randn(shape) * 3 + mean
    return x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def vectors(channels: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(channels, device=DEVICE).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 32, 16, 16), 32), ((2, 20, 5, 3), 4), ((3, 48, 1, 1), 16), ((1, 5, 40, 27), 1), ((2, 6, 4, 4), 2)],
)
def test_group_norm(shape: tuple[int, ...], groups: int, silu: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = map_of(*shape, dtype=dtype)
    weight, bias, _ = vectors(shape[1], dtype)
    found = group_norm(x, weight, bias, groups, 1e-6, silu=silu)
    expected = F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-6)
    expected = F.silu(expected) if silu else expected
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_a_bias_that_the_map_lacks() -> None:
    torch.manual_seed(0)
    x = map_of(2, 12, 6, 7)
    weight, bias, before = vectors(12)
    found = group_norm(x, weight, bias, 3, 1e-6, silu=True, before=before)
    whole = x.double() + before.double().view(1, -1, 1, 1)
    expected = F.silu(F.group_norm(whole, 3, weight.double(), bias.double(), 1e-6))
    torch.testing.assert_close(found.double(), expected, atol=5e-6, rtol=5e-6)


def test_a_large_mean_costs_no_digits_of_the_deviation() -> None:
    torch.manual_seed(0)
    x = map_of(1, 8, 20, 20, mean=3000.0)
    ones, zeros = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    found = group_norm(x, ones, zeros, 2, 1e-6, silu=False)
    torch.testing.assert_close(found.double(), F.group_norm(x.double(), 2, eps=1e-6), atol=2e-3, rtol=0)


def test_an_image_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    x = map_of(3, 16, 9, 9)
    weight, bias, before = vectors(16)
    whole = group_norm(x, weight, bias, 4, 1e-6, silu=True, before=before)
    alone = [group_norm(one, weight, bias, 4, 1e-6, silu=True, before=before) for one in x.split(1)]
    assert torch.equal(whole, torch.cat(alone))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_residual_sum(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, y = map_of(2, 20, 5, 3, dtype=dtype), map_of(2, 20, 5, 3, dtype=dtype)
    bias = vectors(20, dtype)[0]
    found = residual_sum(x, y, bias)
    expected = x.double() + y.double() + bias.double().view(1, -1, 1, 1)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(1, 8, 4, 4), (2, 20, 3, 5), (3, 5, 1, 2)])
@torch.no_grad()
def test_upsampling_by_corners(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, x = channels_last(Upsample(shape[1])).to(DEVICE), map_of(*shape)
    with exact_float32():
        found = module.by_corners(x)
    expected = module.double()(x.double())
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 5, 1, 1), (4, 4)), ((1, 32, 3, 2), (16, 16)), ((3, 4, 5, 5), (7, 6)), ((1, 3, 13, 13), (16, 16))],
)
def test_bicubic(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for x in (map_of(*shape), map_of(*shape).contiguous()):
        found = bicubic(x, size)
        expected = F.interpolate(x.double(), size=size, mode="bicubic")
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.double(), expected, atol=5e-6, rtol=5e-6)


@torch.no_grad()
def test_few_outputs_are_filled_up_and_cut(kernels_everywhere: None) -> None:
    torch.manual_seed(0)
    module, x = (
        channels_last(nn.Conv2d(8, 3, 3, padding=1)).to(DEVICE, torch.bfloat16),
        map_of(2, 8, 4, 4, dtype=torch.bfloat16),
    )
    found = few_outputs(module, x)
    assert found.shape == (2, 3, 4, 4)
    torch.testing.assert_close(found, module(x), atol=2e-2, rtol=2e-2)


@pytest.fixture
def kernels_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "uses_kernels", lambda x: not torch.is_grad_enabled())


def test_a_block_is_the_same_with_kernels(monkeypatch: pytest.MonkeyPatch, kernels_everywhere: None) -> None:
    torch.manual_seed(0)
    block = channels_last(ResidualBlock(8, 12).eval()).to(DEVICE)
    x = map_of(2, 8, 6, 6)
    with torch.no_grad(), exact_float32():
        found = block(x)
        monkeypatch.setattr(conv, "uses_kernels", lambda x: False)
        torch.testing.assert_close(found, block(x), atol=5e-5, rtol=5e-5)


def test_a_decoder_is_the_same_with_kernels(monkeypatch: pytest.MonkeyPatch, kernels_everywhere: None) -> None:
    torch.manual_seed(0)
    decoder = channels_last(Decoder([8, 4, 4], 1, 4, patch=2, attention=True, dropout=0.0).eval()).to(DEVICE)
    latents = torch.randn(2, 4, 4, 4, device=DEVICE)
    orders = []
    for module in decoder.modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(
                lambda _, given, made: orders.append(made.is_contiguous(memory_format=torch.channels_last))
            )
    with torch.no_grad(), exact_float32():
        found = decoder(latents)
        assert orders == [True] * 5
        monkeypatch.setattr(conv, "uses_kernels", lambda x: False)
        torch.testing.assert_close(found, decoder(latents), atol=5e-5, rtol=5e-5)


def test_training_takes_the_plain_way(kernels_everywhere: None) -> None:
    block = channels_last(ResidualBlock(4, 4, 0.5)).to(DEVICE)
    block(map_of(1, 4, 4, 4)).sum().backward()
    assert block.conv1.bias is not None and block.conv1.bias.grad is not None
