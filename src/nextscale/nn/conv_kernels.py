"""Triton kernels of the tokenizer on channels-last maps: GroupNorm with SiLU, residual sums, interpolation.

Shapes: B batch, C channels, G groups, P = h * w pixels, T tiles of a map's pixels. Sums are float32, in an order that
depends on the map's size only: an image does not depend on its batch.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Triton's types know neither plain values as constexpr nor the options of a launch.
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILES = 512
"""Tiles whose moments are added up at once."""
SUMMED, WRITTEN = 16384, 8192
"""Elements of a tile, which one program adds up, and elements that one writes."""
INTERPOLATED = 1024
"""Elements that one program interpolates."""


@triton.jit
def tile_moments(x, means, deviations, P, C: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr):
    """Mean and sum of squared deviations of each channel in one tile -> two tables (B, T, C).

    A program loads its tile at once: in a loop, each step would wait for memory.
    """
    tile, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows, channels = tile * TILE + tl.arange(0, TILE), tl.arange(0, WIDE)
    inside = channels < C
    mask = (rows < P)[:, None] & inside[None, :]
    values = tl.load(x + image * P * C + rows[:, None] * C + channels[None, :], mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=0) / tl.minimum(TILE, P - tile * TILE).to(tl.float32)
    away = tl.where(mask, values - mean[None, :], 0.0)
    place = (image * tl.num_programs(0) + tile) * C + channels
    tl.store(means + place, mean, mask=inside)
    tl.store(deviations + place, tl.sum(away * away, axis=0), mask=inside)


@triton.jit
def scales_and_shifts(
    means, deviations, weight, bias, before, scales, shifts, P, T, eps,
    C: tl.constexpr, SIZE: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
):  # fmt: skip
    """GroupNorm of one group of an image as x * scale + shift, from its tiles, some at a time -> two tables (B, C).

    `before` is a bias that the map still lacks; it moves means only.
    """
    group, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    own = tl.arange(0, WIDE)
    inside = own < SIZE
    channels = group * SIZE + own
    number = P * SIZE
    added = tl.zeros([WIDE], tl.float32)
    if HAS_BEFORE:
        added = tl.load(before + channels, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([TILES, WIDE], tl.float32)
    for first in range(0, T, TILES):
        tiles = first + tl.arange(0, TILES)
        mask = (tiles < T)[:, None] & inside[None, :]
        counts = tl.minimum(TILE, P - tiles * TILE).to(tl.float32)[:, None]
        centres = tl.load(means + (image * T + tiles)[:, None] * C + channels[None, :], mask=mask, other=0.0)
        total += tl.where(mask, (centres + added[None, :]) * counts, 0.0)
    mean = tl.sum(tl.sum(total, axis=1), axis=0) / number
    total = tl.zeros([TILES, WIDE], tl.float32)
    for first in range(0, T, TILES):
        tiles = first + tl.arange(0, TILES)
        mask = (tiles < T)[:, None] & inside[None, :]
        counts = tl.minimum(TILE, P - tiles * TILE).to(tl.float32)[:, None]
        place = (image * T + tiles)[:, None] * C + channels[None, :]
        away = tl.load(means + place, mask=mask, other=0.0) + added[None, :] - mean
        spread = tl.load(deviations + place, mask=mask, other=0.0) + away * away * counts
        total += tl.where(mask, spread, 0.0)
    variance = tl.sum(tl.sum(total, axis=1), axis=0) / number
    scale = tl.load(weight + channels, mask=inside, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    shift = tl.load(bias + channels, mask=inside, other=0.0).to(tl.float32) + (added - mean) * scale
    tl.store(scales + image * C + channels, scale, mask=inside)
    tl.store(shifts + image * C + channels, shift, mask=inside)


@triton.jit
def scaled(x, scales, shifts, out, P, C: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, SILU: tl.constexpr):
    """x * scale + shift, then SiLU, of some pixels."""
    image = tl.program_id(1).to(tl.int64)
    rows, channels = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    inside = channels < C
    scale = tl.load(scales + image * C + channels, mask=inside, other=0.0)
    shift = tl.load(shifts + image * C + channels, mask=inside, other=0.0)
    mask = (rows < P)[:, None] & inside[None, :]
    place = rows[:, None] * C + channels[None, :]
    values = tl.load(x + image * P * C + place, mask=mask, other=0.0).to(tl.float32)
    values = values * scale[None, :] + shift[None, :]
    if SILU:
        values = values / (1.0 + tl.exp(-values))
    tl.store(out + image * P * C + place, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def summed(x, y, bias, out, N, C: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """x + y + bias of some pixels of all images."""
    rows, channels = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    inside = channels < C
    mask = (rows < N)[:, None] & inside[None, :]
    place = rows[:, None] * C + channels[None, :]
    added = tl.load(bias + channels, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    values += tl.load(y + place, mask=mask, other=0.0).to(tl.float32) + added[None, :]
    tl.store(out + place, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def corners_woven(x, bias, out, N, H, W, C: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Some pixels (H, W) of all images, each one's four corners from maps (H + 1, W + 1), plus bias."""
    corner = tl.program_id(1)
    down, right = corner // 2, corner % 2
    rows, channels = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    inside = channels < C
    mask = (rows < N)[:, None] & inside[None, :]
    line, column = rows // W, rows % W  # of all images' lines
    given = (line // H * (H + 1) + line % H + down) * (W + 1) + column + right
    added = tl.load(bias + channels, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(x + given[:, None] * (4 * C) + corner * C + channels[None, :], mask=mask, other=0.0)
    values = values.to(tl.float32) + added[None, :]
    place = (2 * line + down) * (2 * W) + 2 * column + right
    tl.store(out + place[:, None] * C + channels[None, :], values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def cubic_weight(x):
    """The kernel of bicubic interpolation with a = -0.75, as torch has it, at distance x from 0 to 2."""
    near = (1.25 * x - 2.25) * x * x + 1.0
    far = ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0
    return tl.where(x <= 1.0, near, far)


@triton.jit
def interpolated(
    x, out, x_image, x_channel, x_line, x_column, h, w, H, W, down, right,
    C: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Some pixels of an image (H, W) from the 4 x 4 nearest of a map (h, w); `down` and `right` are h / H and w / W."""
    image = tl.program_id(1).to(tl.int64)
    rows, channels = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    mask = (rows < H * W)[:, None] & (channels < C)[None, :]
    y = (rows // W + 0.5) * down - 0.5
    z = (rows % W + 0.5) * right - 0.5
    line, column = tl.floor(y), tl.floor(z)
    total = tl.zeros([ROWS, WIDE], tl.float32)
    for i in tl.static_range(4):
        above = line.to(tl.int32) + i - 1
        weight = cubic_weight(tl.abs(y - line - (i - 1)))
        start = x + image * x_image + tl.minimum(tl.maximum(above, 0), h - 1) * x_line
        along = tl.zeros([ROWS, WIDE], tl.float32)
        for j in tl.static_range(4):
            beside = column.to(tl.int32) + j - 1
            place = start + tl.minimum(tl.maximum(beside, 0), w - 1) * x_column
            values = tl.load(place[:, None] + channels[None, :] * x_channel, mask=mask, other=0.0)
            along += values * cubic_weight(tl.abs(z - column - (j - 1)))[:, None]
        total += along * weight[:, None]
    tl.store(out + (image * (H * W) + rows)[:, None] * C + channels[None, :], total, mask=mask)


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, *, silu: bool, before: Tensor | None = None
) -> Tensor:
    """SiLU(F.group_norm(x + before)), SiLU where asked: (B, C, h, w) channels-last -> same, in x's type.

    `before` (C,) is a bias that x still lacks.
    """
    batch, channels, height, width = x.shape
    assert x.is_contiguous(memory_format=torch.channels_last) and channels % groups == 0
    pixels, wide = height * width, triton.next_power_of_2(channels)
    tile = max(1, min(triton.next_power_of_2(pixels), SUMMED // wide))
    tiles, size = triton.cdiv(pixels, tile), channels // groups
    means, deviations = torch.empty(2, batch, tiles, channels, device=x.device, dtype=torch.float32)
    scales, shifts = torch.empty(2, batch, channels, device=x.device, dtype=torch.float32)
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        tile_moments[tiles, batch](x, means, deviations, pixels, channels, tile, wide, num_warps=8)
        scales_and_shifts[groups, batch](
            means, deviations, weight, bias, weight if before is None else before, scales, shifts, pixels, tiles, eps,
            channels, size, tile, min(TILES, triton.next_power_of_2(tiles)), triton.next_power_of_2(size),
            before is not None,
        )  # fmt: skip
        rows = max(1, WRITTEN // wide)
        grid = (triton.cdiv(pixels, rows), batch)
        scaled[grid](x, scales, shifts, out, pixels, channels, rows, wide, silu, num_warps=8)
    return out


def residual_sum(x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """x + y + bias: two maps (B, C, h, w), channels-last, and (C,) -> same, in x's type."""
    assert x.is_contiguous(memory_format=torch.channels_last) and y.is_contiguous(memory_format=torch.channels_last)
    channels = x.shape[1]
    pixels, wide, out = x.numel() // channels, triton.next_power_of_2(channels), torch.empty_like(x)
    rows = max(1, WRITTEN // wide)
    with torch.cuda.device_of(x):
        summed[(triton.cdiv(pixels, rows),)](x, y, bias, out, pixels, channels, rows, wide, num_warps=8)
    return out


def woven(x: Tensor, bias: Tensor) -> Tensor:
    """Four maps (B, 4 C, h + 1, w + 1), one for each corner of a pixel, plus (C,) -> (B, C, 2 h, 2 w), channels-last.

    Corner (a, b) of pixel (i, j), in the result (2 i + a, 2 j + b), is at (i + a, j + b) of map 2 a + b.
    """
    batch, channels, height, width = x.shape[0], x.shape[1] // 4, x.shape[2] - 1, x.shape[3] - 1
    assert x.is_contiguous(memory_format=torch.channels_last)
    out = torch.empty(
        (batch, channels, 2 * height, 2 * width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    pixels, wide = batch * height * width, triton.next_power_of_2(channels)
    rows = max(1, WRITTEN // 2 // wide)
    with torch.cuda.device_of(x):
        grid = (triton.cdiv(pixels, rows), 4)
        corners_woven[grid](x, bias, out, pixels, height, width, channels, rows, wide, num_warps=8)
    return out


def bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """F.interpolate(x, size, mode="bicubic"), float32 (B, C, h, w) in any order -> (B, C, *size), channels-last."""
    batch, channels, height, width = x.shape
    out = torch.empty((batch, channels, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    wide = triton.next_power_of_2(channels)
    rows = max(1, INTERPOLATED // wide)
    with torch.cuda.device_of(x):
        grid = (triton.cdiv(size[0] * size[1], rows), batch)
        interpolated[grid](
            x, out, *x.stride(), height, width, *size, height / size[0], width / size[1], channels, rows, wide
        )
    return out
