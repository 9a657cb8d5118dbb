"""Triton's kernels of the draw: noise computed where it is used, and a token per position in one pass over its logits.

They equal `noise.gumbel_noise` and `draw.draw_tokens`. A program works on one row, all V entries of one position of one
image. Nothing waits for the host, and grids follow from shapes: both kernels may be captured in CUDA graphs.
"""

# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nextscale.sampling.noise import BLOCK, TOKENS, UNIT
from nextscale.sampling.step import SamplingConfig

LEAST = 128
"""Entries that a program works on at least; rows are padded to a power of two."""

_BLOCK = tl.constexpr(BLOCK)
_UNIT = tl.constexpr(UNIT)
_NATURAL = ["step", "stream", "length", "top_k"]
"""Arguments for whose values kernels are not compiled anew."""


def gumbel_table(seeds: Tensor, step: int, length: int, size: int, *, stream: int = TOKENS) -> Tensor:
    """`noise.gumbel_noise` on the device of the seeds, equal but for the logarithm's last digits."""
    table = torch.empty(len(seeds), length, size, dtype=torch.float32, device=seeds.device)
    width = row_width(size)
    with torch.cuda.device_of(seeds):
        _noise_kernel[(len(seeds) * length,)](
            table, seeds.contiguous(), step, stream, length, size, WIDTH=width, num_warps=warps(width)
        )
    return table


def draw(logits_BLV: Tensor, step: int, seeds: Tensor, config: SamplingConfig, *, stream: int = TOKENS) -> Tensor:
    """`draw.draw_tokens` of logits over the temperature with fresh noise: one token per position, (B, L) int64."""
    assert logits_BLV.dtype == torch.float32 and seeds.dtype == torch.int64 and seeds.device == logits_BLV.device
    logits_BLV = logits_BLV.contiguous()
    batch, length, size = logits_BLV.shape
    tokens = torch.empty(batch, length, dtype=torch.int64, device=logits_BLV.device)
    width = row_width(size)
    with torch.cuda.device_of(logits_BLV):
        _draw_kernel[(batch * length,)](
            tokens, logits_BLV, seeds.contiguous(), step, stream, length, size,
            config.top_k, float(config.top_p), float(config.temperature),
            HAS_K=0 < config.top_k < size, HAS_P=config.top_p > 0, WIDTH=width, num_warps=warps(width),
        )  # fmt: skip
    return tokens


def row_width(size: int) -> int:
    """The power of two that a row is padded to."""
    return max(LEAST, triton.next_power_of_2(size))


def warps(width: int) -> int:
    """Warps of a program: 16 entries per thread where there are up to 16 warps."""
    return min(16, max(4, width // 512))


@triton.jit(do_not_specialize=_NATURAL)
def _noise_kernel(table, seeds, step, stream, length, size, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    seed = tl.load(seeds + row // length)
    entries = tl.arange(0, WIDTH)
    noise = _gumbel(seed, stream, step, row % length, size, WIDTH)
    tl.store(table + row * size + entries, noise, mask=entries < size)


@triton.jit(do_not_specialize=_NATURAL)
def _draw_kernel(
    tokens, logits, seeds, step, stream, length, size, top_k, top_p, temperature,
    HAS_K: tl.constexpr, HAS_P: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    seed = tl.load(seeds + row // length)
    entries = tl.arange(0, WIDTH)
    logits += row * size
    x = tl.div_rn(tl.load(logits + entries, mask=entries < size, other=-float("inf")), temperature)
    score = x + _gumbel(seed, stream, step, row % length, size, WIDTH)
    kept = entries < size
    if HAS_K:
        kept &= x >= _least_of_best(x, top_k)
    score = tl.where(kept, score, -float("inf"))
    token = _best(score, size)
    if HAS_P:
        mass = tl.where(kept, tl.exp(x - tl.max(x, axis=0)), 0.0)
        bound = tl.maximum(top_p * tl.sum(mass, axis=0), 1e-30)  # 0 is of logits that are not numbers: no end
        chosen = tl.div_rn(tl.load(logits + token), temperature)
        while tl.sum(tl.where(x > chosen, mass, 0.0), axis=0) >= bound:  # top-p drops it, and all that is no likelier
            score = tl.where(x > chosen, score, -float("inf"))
            token = _best(score, size)
            chosen = tl.div_rn(tl.load(logits + token), temperature)
    tl.store(tokens + row, token.to(tl.int64))


@triton.jit
def _best(score, size):
    """The first entry with the largest score; one of the row's also where scores are not numbers."""
    return tl.minimum(tl.argmax(score, axis=0), size - 1)


@triton.jit
def _least_of_best(x, count):
    """A float that exactly `count` entries reach, or with ties the count-th largest: by bisection on integers.

    Floats are in the order of their bits, read as an integer, once the bits of negative ones are turned over.
    """
    bits = x.to(tl.int32, bitcast=True)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    low = tl.min(keys, axis=0).to(tl.int64)  # all reach it
    high = tl.max(keys, axis=0).to(tl.int64) + 1  # none does
    while high - low > 1:
        middle = (low + high) >> 1
        reached = tl.sum((keys >= middle.to(tl.int32)).to(tl.int32), axis=0)
        low = tl.where(reached >= count, middle, low)
        high = tl.where(reached < count, middle, tl.where(reached == count, middle + 1, high))
    key = low.to(tl.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _gumbel(seed, stream, step, position, size, WIDTH: tl.constexpr):
    """Noise of the entries of a row, (WIDTH,) float32."""
    bits = _random_bits(seed, stream, step, position, size, WIDTH)
    uniform = (bits.to(tl.float32) + 0.5) * _UNIT
    exponential = tl.where(uniform < 0.29, -_log_beside_one(-uniform), -_log(1.0 - uniform))
    return -_log(exponential)


@triton.jit
def _log(x):
    """Natural logarithm of positive normal numbers: of the mantissa, from 0.71 to 1.41, and of the power of 2."""
    bits = x.to(tl.int32, bitcast=True)
    power = (bits - 0x3F3504F3) >> 23
    mantissa = (bits - (power << 23)).to(tl.float32, bitcast=True)
    power = power.to(tl.float32)
    return power * 0.693359375 + (power * -2.12194440e-4 + _log_beside_one(mantissa - 1.0))


@triton.jit
def _log_beside_one(x):
    """log(1 + x) for x from -0.3 to 0.42, to float32's relative precision also where x is small (Cephes, logf)."""
    y = 7.0376836292e-2 * x - 1.1514610310e-1
    y = y * x + 1.1676998740e-1
    y = y * x - 1.2420140846e-1
    y = y * x + 1.4249322787e-1
    y = y * x - 1.6668057665e-1
    y = y * x + 2.0000714765e-1
    y = y * x - 2.4999993993e-1
    y = y * x + 3.3333331174e-1
    return x + (y * x - 0.5) * (x * x)


@triton.jit
def _random_bits(seed, stream, step, position, size, WIDTH: tl.constexpr):
    """`noise.random_bits` of a row, (WIDTH,) int32."""
    blocks = (size + _BLOCK - 1) // _BLOCK
    counter = position * blocks + tl.arange(0, WIDTH // _BLOCK) + 1  # numpy counts before it computes
    zero = tl.zeros_like(counter).to(tl.uint64)
    a, b, c, d = tl.philox_impl(
        counter.to(tl.uint64), zero + step.to(tl.uint64), zero, zero, seed.to(tl.uint64), stream.to(tl.uint64)
    )
    # Each thread keeps whole blocks; in a block, words follow each other, of each the lower half first.
    low = tl.interleave(tl.interleave(_low(a), _low(c)), tl.interleave(_low(b), _low(d)))
    high = tl.interleave(tl.interleave(_high(a), _high(c)), tl.interleave(_high(b), _high(d)))
    return tl.interleave(low, high)


@triton.jit
def _low(word):
    """31 bits of the lower half of 64, as int32."""
    return ((word >> 1) & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def _high(word):
    """31 bits of the upper half of 64, as int32."""
    return (word >> 33).to(tl.int32)
