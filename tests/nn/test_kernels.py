"""Kernels against what they compute, in float64; on CUDA where there is one, else in Triton's interpreter."""

import math

import pytest
import torch
from torch.nn import functional as F

from nextscale.nn import HEAD_WIDTH
from nextscale.nn.attention import MAX_LOG_SCALE

kernels = pytest.importorskip("nextscale.nn.kernels", reason="needs Triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1, 64), (3, 1, 320), (2, 5, 320), (3, 4, 1920)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype).to(DEVICE)


def near(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Equal up to the arithmetic in float32, and the rounding of the result to its type."""
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=max(1e-5, torch.finfo(found.dtype).eps))


def rows(batch: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Modulation rows (B, 1, C) as blocks take them: views of one tensor."""
    return random(batch, 6, width, dtype=dtype).unsqueeze(2).unbind(1)


def modulated(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale.double()) + shift.double()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gate_sum_and_modulation(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    batch, _, width = shape
    x, branch = 3 * random(*shape) + 1, random(*shape, dtype=dtype)
    gamma, _, scale, _, shift, _ = rows(batch, width, dtype)
    total = x.double() + branch.double() * gamma.double()
    near(kernels.modulate(x, scale, shift, dtype), modulated(x, scale, shift))
    near(kernels.gated(x, branch, gamma), total)
    sums, read = kernels.gated_modulate(x, branch, gamma, scale, shift, dtype)
    near(sums, total)
    near(read, modulated(total, scale, shift))
    assert read.dtype == dtype and sums.dtype == torch.float32


def test_rows_may_be_one_for_all_images() -> None:
    x, (scale, shift) = random(2, 3, 64), random(2, 64).expand(2, -1, -1).unsqueeze(2).unbind(1)
    near(kernels.modulate(x, scale, shift, torch.float32), modulated(x, scale, shift))


def test_tokens_that_are_all_alike_are_normalised_to_zero() -> None:
    """Their variance is 0, and padding to a power of two must not count."""
    x, shift = torch.full((1, 2, 320), 7.0, device=DEVICE), random(1, 1, 320)
    assert torch.equal(kernels.modulate(x, torch.zeros_like(shift), shift, torch.float32), shift.expand(1, 2, -1))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize(("batch", "length", "heads"), [(1, 1, 1), (3, 1, 5), (2, 3, 18)])
def test_heads_go_to_the_queries_and_the_cache(
    batch: int, length: int, heads: int, normalised: bool, dtype: torch.dtype
) -> None:
    width = heads * HEAD_WIDTH
    qkv, query_bias, value_bias = random(batch, length, 3 * width, dtype=dtype), random(width), random(width)
    qkv[0, 0, width : width + HEAD_WIDTH] = 0  # a key without length has no direction
    log_scale = torch.linspace(-1, 6, heads).view(-1, 1, 1).to(DEVICE) if normalised else None
    buffers = random(2, batch, 7, heads, HEAD_WIDTH, dtype=dtype).transpose(2, 3)
    before = buffers.clone()
    places = buffers[:, :, :, 2 : 2 + length]
    query = kernels.split_heads(qkv, query_bias, value_bias, log_scale, *places, max_log_scale=MAX_LOG_SCALE)

    q, k, v = qkv.double().unflatten(-1, (3, heads, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
    q, v = (x + bias.double().view(heads, 1, HEAD_WIDTH) for x, bias in ((q, query_bias), (v, value_bias)))
    if log_scale is not None:
        factor = log_scale.double().clamp_max(math.log(100)).exp()
        q, k = F.normalize(q, dim=-1) * factor, F.normalize(k, dim=-1)
    assert query.dtype == dtype
    for found, exact in zip((query, *places), (q, k, v), strict=True):
        near(found, exact)
    before[:, :, :, 2 : 2 + length] = places
    assert torch.equal(buffers, before), "other positions stay"
