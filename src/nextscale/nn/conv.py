"""Convolutional encoder and decoder of the tokenizer: VQGAN's CNN, with an optional space-to-depth stem.

Shapes: B batch, C channels, (H, W) pixels, (h, w) the latent grid, H = h * patch * 2^(levels - 1); P = h * w pixels of
a map, G groups of channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn.cuda import uses_kernels

SPLIT = 1024
"""Pixels of a map from which torch's kernel divides a sum among threads, so that it depends on their number."""
PART_BYTES = 2**20
"""Size of the parts in which a map is normalised: they should stay in cache."""
OUTPUTS = 8
"""Channels of which kernels of the tensor cores make a multiple."""
Module = TypeVar("Module", bound=nn.Module)


def channels_last(module: Module) -> Module:
    """The module with its 4-D weights in channels-last order, in place."""
    to: Any = module.to  # torch's type stubs lack memory_format
    return to(memory_format=torch.channels_last)


def normalisation(channels: int) -> nn.GroupNorm:
    """GroupNorm over 32 groups (fewer where the channels do not divide), eps 1e-6."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


def group_norm_silu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """SiLU(norm(x)), (B, C, h, w) -> same.

    In float32 inference on CPU, large channels-last maps are computed part by part. torch's kernel sums a map in
    float32, which is most of a large decoder's error, and divides the sum among threads. Here sums are float64;
    normalising and activating each part while it is in cache makes up for the time. On CUDA in inference, kernels keep
    channels-last order, of which torch makes two copies.
    """
    if goes_to_kernels(x):
        return normalised_by_kernels(x, norm, silu=True)
    small = x.shape[2] * x.shape[3] < SPLIT or x.dtype != torch.float32 or x.device.type != "cpu"
    plain = torch.is_grad_enabled() or torch.compiler.is_exporting()  # an exported graph has no loop over images
    if small or plain or not x.is_contiguous(memory_format=torch.channels_last):
        return F.silu(norm(x), inplace=not torch.is_grad_enabled())
    output = torch.empty_like(x)
    for image_PC, result_PC in zip(pixels(x), pixels(output), strict=True):
        rows = max(1, PART_BYTES // (4 * image_PC.shape[1]))
        scale_C, shift_C = scale_and_shift(image_PC, norm, rows)
        for part, result in zip(image_PC.split(rows), result_PC.split(rows), strict=True):
            torch.addcmul(shift_C, part, scale_C, out=result)
            F.silu(result, inplace=True)
    return output


def goes_to_kernels(x: Tensor) -> bool:
    """Whether a map goes to the kernels of `nn.conv_kernels`."""
    return uses_kernels(x) and x.is_contiguous(memory_format=torch.channels_last)


def normalised_by_kernels(x: Tensor, norm: nn.GroupNorm, *, silu: bool, before: Tensor | None = None) -> Tensor:
    """norm(x + before), then SiLU where asked, (B, C, h, w) -> same; `before` (C,) is a bias that x still lacks."""
    from nextscale.nn.conv_kernels import group_norm

    return group_norm(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu=silu, before=before)


def without_bias(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of which only the bias is missing, channels-last."""
    output = F.conv2d(x, convolution.weight, None, convolution.stride, convolution.padding)
    return output.contiguous(memory_format=torch.channels_last)


def few_outputs(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution to a few channels, with zeros up to a multiple of 8: for others cuDNN leaves the tensor cores."""
    missing = -convolution.out_channels % OUTPUTS
    if missing == 0 or not goes_to_kernels(x) or x.dtype == torch.float32:
        return convolution(x)
    assert convolution.bias is not None
    weight = F.pad(convolution.weight, (0, 0, 0, 0, 0, 0, 0, missing)).contiguous(memory_format=torch.channels_last)
    wider = F.conv2d(x, weight, F.pad(convolution.bias, (0, missing)), convolution.stride, convolution.padding)
    return wider[:, : convolution.out_channels]


def pixels(x: Tensor) -> Tensor:
    """A view of channels-last maps as rows of pixels, (B, C, h, w) -> (B, P, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def scale_and_shift(image_PC: Tensor, norm: nn.GroupNorm, rows: int) -> tuple[Tensor, Tensor]:
    """GroupNorm of one map as x * scale + shift, both (C,)."""
    sums_2C = torch.zeros(2, image_PC.shape[1], dtype=torch.float64)
    for part in image_PC.split(rows):
        part = part.double()  # float32 sums would depend on the number of threads
        sums_2C += torch.stack([part.sum(dim=0), part.square_().sum(dim=0)])
    sums_2G1 = sums_2C.view(2, norm.num_groups, -1).sum(dim=2, keepdim=True)
    mean_G1, square_G1 = sums_2G1 / (image_PC.numel() / norm.num_groups)
    deviation_G1 = (square_G1 - mean_G1.square()).clamp_min(0).add(norm.eps).sqrt()
    weight, bias = (value.double().view(norm.num_groups, -1) for value in (norm.weight, norm.bias))
    scale_GC = weight / deviation_G1
    return scale_GC.flatten().float(), (bias - mean_G1 * scale_GC).flatten().float()


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, twice, plus a shortcut: (B, C_in, h, w) -> (B, C_out, h, w)."""

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = normalisation(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = normalisation(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if goes_to_kernels(x) and not self.training:
            return self.by_kernels(x)
        hidden = self.conv1(group_norm_silu(x, self.norm1))
        hidden = self.conv2(self.dropout(group_norm_silu(hidden, self.norm2)))
        return self.shortcut(x) + hidden

    def by_kernels(self, x: Tensor) -> Tensor:
        """`forward` in inference. What comes next adds the biases, for which torch takes a pass over the map each."""
        from nextscale.nn.conv_kernels import residual_sum

        hidden = without_bias(self.conv1, normalised_by_kernels(x, self.norm1, silu=True))
        hidden = normalised_by_kernels(hidden, self.norm2, silu=True, before=self.conv1.bias)
        assert self.conv2.bias is not None
        shortcut = self.shortcut(x).contiguous(memory_format=torch.channels_last)
        return residual_sum(shortcut, without_bias(self.conv2, hidden), self.conv2.bias)


class SpatialAttention(nn.Module):
    """Single-head self-attention over the positions of a map, scale C^-0.5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = normalisation(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        normalised = normalised_by_kernels(x, self.norm, silu=False) if goes_to_kernels(x) else self.norm(x)
        qkv = self.qkv(normalised).flatten(2).transpose(1, 2)  # (B, hw, 3C)
        query, key, value = qkv.unsqueeze(1).chunk(3, dim=-1)  # (B, 1, hw, C)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.proj(mixed.squeeze(1).transpose(1, 2).reshape(batch, channels, height, width))


class Downsample(nn.Module):
    """Stride-2 convolution; padded right and bottom by one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest x2, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if goes_to_kernels(x) and x.dtype != torch.float32:
            return self.by_corners(x)
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))

    def by_corners(self, x: Tensor) -> Tensor:
        """`forward` before upsampling: one convolution of 2 x 2 for all four corners of a pixel, 4/9 of the products.

        Weights are added up, which rounds them once more: no loss in 16 bits.
        """
        from nextscale.nn.conv_kernels import woven

        assert self.conv.bias is not None
        maps = F.conv2d(x, corner_weights(self.conv.weight), padding=1)  # (B, 4 C, h + 1, w + 1)
        return woven(maps.contiguous(memory_format=torch.channels_last), self.conv.bias)


def corner_weights(weight: Tensor) -> Tensor:
    """Weights after nearest x2, (O, C, 3, 3) -> those before it, (4 O, C, 2, 2) channels-last.

    O for each corner (0, 0), (0, 1), (1, 0), (1, 1) of a pixel. Along a side, the first corner sees the pixel before
    with one weight and its own with two, the second its own with two and the next with one.
    """
    rows = added_sides(*weight.float().permute(0, 2, 3, 1).unbind(1))  # (2 corners, 2 pixels, O, 3, C)
    both = added_sides(*rows.unbind(3))  # (2, 2) of columns before those of rows
    corners = both.permute(2, 0, 4, 3, 1, 5).reshape(-1, 2, 2, weight.shape[1])
    return corners.to(weight.dtype).permute(0, 3, 1, 2)


def added_sides(first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
    """Three weights along a side as those of two corners on two pixels each, (2, 2, ...)."""
    return torch.stack((first, middle + last, first + middle, last)).unflatten(0, (2, 2))


class Stage(nn.Module):
    """Residual blocks at one resolution, each followed by attention if the stage has it, then resampling."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, *, attention: bool, dropout: float, resample: nn.Module
    ) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.blocks = nn.ModuleList(ResidualBlock(a, b, dropout) for a, b in pairwise(widths))
        self.attention = nn.ModuleList(SpatialAttention(outputs) for _ in range(blocks if attention else 0))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x)
            if self.attention:
                x = self.attention[index](x)
        return self.resample(x)


def make_stages(
    widths: Sequence[int],
    blocks: int,
    attention_level: int | None,
    dropout: float,
    resample: Callable[[int], nn.Module],
) -> nn.Sequential:
    """A stage for each width after the first, attention at one level, resampling after all but the last."""
    last = len(widths) - 2
    return nn.Sequential(
        *(
            Stage(
                inputs,
                outputs,
                blocks,
                attention=level == attention_level,
                dropout=dropout,
                resample=resample(outputs) if level < last else nn.Identity(),
            )
            for level, (inputs, outputs) in enumerate(pairwise(widths))
        )
    )


class Middle(nn.Sequential):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, *, attention: bool, dropout: float) -> None:
        super().__init__(
            ResidualBlock(channels, channels, dropout),
            SpatialAttention(channels) if attention else nn.Identity(),
            ResidualBlock(channels, channels, dropout),
        )


class Encoder(nn.Module):
    """(B, 3, H, W) -> (B, latent, h, w). `widths` are the channels of the stem and of each level, fine to coarse."""

    def __init__(
        self, widths: Sequence[int], blocks: int, latent_channels: int, *, patch: int, attention: bool, dropout: float
    ) -> None:
        super().__init__()
        self.stem = nn.PixelUnshuffle(patch) if patch > 1 else nn.Identity()
        self.conv_in = nn.Conv2d(3 * patch**2, widths[0], 3, padding=1)
        self.stages = make_stages(widths, blocks, len(widths) - 2 if attention else None, dropout, Downsample)
        self.middle = Middle(widths[-1], attention=attention, dropout=dropout)
        self.norm_out = normalisation(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv_in(self.stem(images).contiguous(memory_format=torch.channels_last))
        return self.conv_out(group_norm_silu(self.middle(self.stages(hidden)), self.norm_out))


class Decoder(nn.Module):
    """(B, latent, h, w) -> (B, 3, H, W), unclamped. `widths` are the channels of each level, coarse to fine."""

    def __init__(
        self, widths: Sequence[int], blocks: int, latent_channels: int, *, patch: int, attention: bool, dropout: float
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], attention=attention, dropout=dropout)
        self.stages = make_stages([widths[0], *widths], blocks, 0 if attention else None, dropout, Upsample)
        self.norm_out = normalisation(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3 * patch**2, 3, padding=1)
        self.tail = nn.PixelShuffle(patch) if patch > 1 else nn.Identity()

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.middle(self.conv_in(latents.contiguous(memory_format=torch.channels_last)))
        return self.tail(few_outputs(self.conv_out, group_norm_silu(self.stages(hidden), self.norm_out)))
