"""Triton kernels of the transformer's blocks: everything between two matrix products in one launch.

`nn.block` and `nn.attention` decide when they run, and hold the torch expressions that they equal.
Shapes: B batch, L tokens, C width, H heads, D head width (64).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nextscale.nn import HEAD_WIDTH

HEADS_AT_ONCE = 16
"""Largest number of heads that one program of `split_heads` works on."""


def modulate(x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor, dtype: torch.dtype) -> Tensor:
    """`nn.block.modulate` in one launch."""
    x_BLC = x_BLC.contiguous()
    read_BLC = torch.empty_like(x_BLC, dtype=dtype)
    launch_rows(x_BLC, None, None, (scale_B1C, shift_B1C), None, read_BLC)
    return read_BLC


def gated(x_BLC: Tensor, branch_BLC: Tensor, gamma_B1C: Tensor) -> Tensor:
    """`nn.block.gated` in one launch."""
    x_BLC = x_BLC.contiguous()
    sum_BLC = torch.empty_like(x_BLC)
    launch_rows(x_BLC, branch_BLC, gamma_B1C, None, sum_BLC, None)
    return sum_BLC


def gated_modulate(
    x_BLC: Tensor, branch_BLC: Tensor, gamma_B1C: Tensor, scale_B1C: Tensor, shift_B1C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`nn.block.gated_modulate` in one launch."""
    x_BLC = x_BLC.contiguous()
    sum_BLC, read_BLC = torch.empty_like(x_BLC), torch.empty_like(x_BLC, dtype=dtype)
    launch_rows(x_BLC, branch_BLC, gamma_B1C, (scale_B1C, shift_B1C), sum_BLC, read_BLC)
    return sum_BLC, read_BLC


def launch_rows(
    x_BLC: Tensor,
    branch_BLC: Tensor | None,
    gamma_B1C: Tensor | None,
    modulation: tuple[Tensor, Tensor] | None,
    sum_BLC: Tensor | None,
    read_BLC: Tensor | None,
) -> None:
    """Launch `rows_kernel`, one program per token; what is None is not read, computed or written."""
    batch, length, width = x_BLC.shape
    scale, shift = modulation or (None, None)
    assert all(each is None or each.stride(-1) == 1 for each in (gamma_B1C, scale, shift))
    assert scale is None or shift is None or scale.stride(0) == shift.stride(0)
    block = triton.next_power_of_2(width)
    with torch.cuda.device_of(x_BLC):  # Triton launches on the current device
        launch: Any = rows_kernel[(batch * length,)]
        launch(
            x_BLC,
            None if branch_BLC is None else branch_BLC.contiguous(),
            gamma_B1C,
            scale,
            shift,
            sum_BLC,
            read_BLC,
            length,
            0 if gamma_B1C is None else gamma_B1C.stride(0),
            0 if scale is None else scale.stride(0),
            WIDTH=width,
            BLOCK=block,
            GATED=branch_BLC is not None,
            MODULATED=scale is not None,
            num_warps=max(1, min(8, block // 256)),
        )


@triton.jit(do_not_specialize=["length"])
def rows_kernel(
    x,
    branch,
    gamma,
    scale,
    shift,
    total,
    read,
    length,
    gamma_stride,
    scale_stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    GATED: tl.constexpr,
    MODULATED: tl.constexpr,
):
    """A token's channels: x + branch * gamma, then LayerNorm, times 1 + scale, plus shift; all in float32."""
    row = tl.program_id(0).to(tl.int64)
    image = row // length
    channels = tl.arange(0, BLOCK)
    inside = channels < WIDTH
    at = row * WIDTH + channels
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        added = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(gamma + image * gamma_stride + channels, mask=inside, other=0.0).to(tl.float32)
        values += added * gate
        tl.store(total + at, values, mask=inside)
    if MODULATED:
        one_image = image * scale_stride + channels
        factor = tl.load(scale + one_image, mask=inside, other=0.0).to(tl.float32) + 1.0
        offset = tl.load(shift + one_image, mask=inside, other=0.0).to(tl.float32)
        # By division: times 1 / width, a token whose channels are all alike would be off its mean.
        mean = tl.div_rn(tl.sum(values, axis=0), tl.full([], WIDTH, tl.float32))
        centred = tl.where(inside, values - mean, 0.0)
        deviation = tl.sqrt(tl.sum(centred * centred, axis=0) / WIDTH + 1e-6)
        tl.store(read + at, centred / deviation * factor + offset, mask=inside)


def split_heads(
    qkv_BLC: Tensor,
    query_bias_C: Tensor,
    value_bias_C: Tensor,
    log_scale_H11: Tensor | None,
    key_BHLD: Tensor,
    value_BHLD: Tensor,
    *,
    max_log_scale: float,
) -> Tensor:
    """Queries (B, H, L, D) of a product without bias (B, L, 3 C); writes keys and values, such as into a cache.

    It is what follows the product in `SelfAttention.project`: the biases and, with `log_scale_H11`, QK normalisation.
    """
    batch, heads, length, _ = key_BHLD.shape
    assert key_BHLD.stride() == value_BHLD.stride() and key_BHLD.stride(-1) == 1
    query_BLHD = qkv_BLC.new_empty(batch, length, heads, HEAD_WIDTH)
    at_once = min(HEADS_AT_ONCE, triton.next_power_of_2(heads))
    batch_stride, head_stride, token_stride, _ = key_BHLD.stride()
    with torch.cuda.device_of(qkv_BLC):
        launch: Any = heads_kernel[(batch * length, triton.cdiv(heads, at_once))]
        launch(
            qkv_BLC.contiguous(),
            query_bias_C,
            value_bias_C,
            log_scale_H11,
            query_BLHD,
            key_BHLD,
            value_BHLD,
            length,
            batch_stride,
            head_stride,
            token_stride,
            max_log_scale,
            HEADS=heads,
            HEAD_WIDTH=HEAD_WIDTH,
            AT_ONCE=at_once,
            NORMALISED=log_scale_H11 is not None,
            num_warps=max(1, at_once // 4),
        )
    return query_BLHD.transpose(1, 2)


@triton.jit(do_not_specialize=["length"])
def heads_kernel(
    qkv,
    query_bias,
    value_bias,
    log_scale,
    query,
    key,
    value,
    length,
    batch_stride,
    head_stride,
    token_stride,
    max_log_scale,
    HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    AT_ONCE: tl.constexpr,
    NORMALISED: tl.constexpr,
):
    """Some heads of a token: biases, unit queries times the head's factor, unit keys, values; all in float32."""
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    channels = heads[:, None] * HEAD_WIDTH + tl.arange(0, HEAD_WIDTH)[None, :]
    inside = (heads < HEADS)[:, None]
    width = HEADS * HEAD_WIDTH
    given = qkv + row * (3 * width) + channels
    queries = tl.load(given, mask=inside, other=0.0).to(tl.float32)
    keys = tl.load(given + width, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(given + 2 * width, mask=inside, other=0.0).to(tl.float32)
    queries += tl.load(query_bias + channels, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(value_bias + channels, mask=inside, other=0.0).to(tl.float32)
    if NORMALISED:
        logarithms = tl.load(log_scale + heads, mask=heads < HEADS, other=0.0).to(tl.float32)
        factors = tl.exp(tl.minimum(logarithms, max_log_scale))
        lengths = tl.maximum(tl.sqrt(tl.sum(queries * queries, axis=1)), 1e-12)
        queries *= (factors / lengths)[:, None]
        keys /= tl.maximum(tl.sqrt(tl.sum(keys * keys, axis=1)), 1e-12)[:, None]
    tl.store(query + row * width + channels, queries, mask=inside)
    image = row // length
    place = image * batch_stride + (row - image * length) * token_stride
    at = place + heads[:, None] * head_stride + tl.arange(0, HEAD_WIDTH)[None, :]
    tl.store(key + at, keys, mask=inside)
    tl.store(value + at, values, mask=inside)
