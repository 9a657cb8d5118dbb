"""SiLU of GroupNorm, as the CNN's blocks use it.

Shapes: B batch, C channels, (h, w) a map, P = h w pixels, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SPLIT = 1024
"""Pixels of a map from which torch's kernel lets threads add up parts of it: its sums then depend on their number."""
PART_BYTES = 2**20


def group_norm_silu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """SiLU(norm(x)), (B, C, h, w) -> same.

    For float32 inference on CPU with channels-last maps that are not small, part by part: torch's kernel adds up a
    whole map in float32, which is most of a large decoder's error, and in as many pieces as there are threads. Sums
    over parts are added in float64, and each part is normalised and activated while it is in cache, which makes up for
    the time.
    """
    small = x.shape[2] * x.shape[3] < SPLIT or x.dtype != torch.float32 or x.device.type != "cpu"
    if small or torch.is_grad_enabled() or not x.is_contiguous(memory_format=torch.channels_last):
        return F.silu(norm(x), inplace=not torch.is_grad_enabled())
    output = torch.empty_like(x)
    for image_PC, result_PC in zip(pixels(x), pixels(output), strict=True):
        rows = max(1, PART_BYTES // (4 * image_PC.shape[1]))
        scale_C, shift_C = scale_and_shift(image_PC, norm, rows)
        for part, result in zip(image_PC.split(rows), result_PC.split(rows), strict=True):
            torch.addcmul(shift_C, part, scale_C, out=result)
            F.silu(result, inplace=True)
    return output


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
