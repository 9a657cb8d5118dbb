"""The recursion over scales, written once (paper, algorithms 1 and 2).

Encoding, decoding, teacher-forcing input and generation are all `accumulate` with another `choose`:
each scale picks codebook embeddings from what has been accumulated, and adds them back, upsampled and
refined. Shapes: B batch, C latent channels, (h, w) the final grid, (h_k, w_k) the grid of scale k.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.pyramid import ScaleSchedule, Size

Choose = Callable[[int, Tensor], Tensor]
"""(scale, accumulated (B, C, h, w)) -> codebook embeddings of that scale (B, C, h_k, w_k)."""

Refine = Callable[[int, Tensor], Tensor]
"""phi_k: (scale, upsampled embeddings (B, C, h, w)) -> (B, C, h, w)."""


@dataclass(frozen=True)
class ScaleState:
    """What one scale of the recursion leaves behind."""

    scale: int
    embeddings: Tensor  # (B, C, h_k, w_k)
    accumulated: Tensor  # (B, C, h, w), the running sum through this scale


def downsample(features: Tensor, size: Size) -> Tensor:
    """Area-downsample (B, C, h, w) to (B, C, *size); the identity at equal size."""
    return features if tuple(features.shape[-2:]) == size else F.interpolate(features, size=size, mode="area")


def upsample(embeddings: Tensor, size: Size) -> Tensor:
    """Bicubic upsampling of (B, C, h_k, w_k) to (B, C, *size); the identity at equal size."""
    if tuple(embeddings.shape[-2:]) == size:
        return embeddings
    return F.interpolate(embeddings, size=size, mode="bicubic")


def accumulate(
    start: Tensor, schedule: ScaleSchedule, choose: Choose, refine: Refine
) -> Generator[ScaleState, Tensor | None, None]:
    """Run the scales coarse to fine from `start` (B, C, h, w), yielding after each.

    A caller may replace what a scale accumulated by sending a (B, C, h, w) tensor into the generator.
    """
    accumulated = start
    for scale in range(len(schedule)):
        embeddings = choose(scale, accumulated)
        accumulated = accumulated + refine(scale, upsample(embeddings, schedule.final))
        replaced = yield ScaleState(scale, embeddings, accumulated)
        if replaced is not None:
            accumulated = replaced


def flatten_map(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h*w, C): a map as a sequence in raster order."""
    return features.flatten(2).transpose(1, 2)


def next_scale_inputs(states: Iterator[ScaleState], schedule: ScaleSchedule) -> Tensor:
    """Transformer input of scales 2..K under teacher forcing, (B, L - h_1 w_1, C).

    The input of scale k is what scales 1..k-1 accumulated, area-downsampled to (h_k, w_k).
    """
    inputs: list[Tensor] = []
    batch, channels, device, dtype = 0, 0, None, None
    for state in states:
        if state.scale + 1 < len(schedule):
            inputs.append(flatten_map(downsample(state.accumulated, schedule[state.scale + 1])))
        batch, channels = state.accumulated.shape[:2]
        device, dtype = state.accumulated.device, state.accumulated.dtype
    if not inputs:  # a single scale is predicted from the start token alone
        return torch.empty(batch, 0, channels, device=device, dtype=dtype)
    return torch.cat(inputs, dim=1)
