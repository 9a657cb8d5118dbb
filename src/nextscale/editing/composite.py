"""Putting generated pixels into an image: what is kept stays as it is, and no edge shows.

Shapes: B batch, (H, W) pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.editing.masks import spread_inward


def composite(original: Tensor, generated: Tensor, mask: Tensor, *, feather: int) -> Tensor:
    """Generated pixels where the mask is: images (B, 3, H, W), mask (B, 1, H, W) -> (B, 3, H, W).

    Where the mask is 0 the original's pixels stay to the bit; between 0 and 1 both are mixed. The difference of
    original and generated at the mask's edge is spread over the hole and added to what was generated, fading out
    over `feather` pixels (after seamless cloning, Perez et al. 2003): the edge is continuous, and nothing that was
    in the hole shines through. 0 leaves the hole as it was generated.
    """
    kept = mask == 0
    patched = generated
    if feather and bool(kept.any()):
        step = spread_inward(original - generated, kept)
        share = 1 - (depth_below(mask, feather + 2) - 1) / (feather + 1)
        patched = (generated + step * share.clamp(0, 1)).clamp(-1, 1)
        patched = torch.where(kept.flatten(1).any(dim=1).view(-1, 1, 1, 1), patched, generated)
    return torch.where(kept, original, torch.lerp(original.expand_as(generated), patched, mask))


def depth_below(mask: Tensor, most: int) -> Tensor:
    """How many pixels inside the mask each pixel lies, up to `most`: 0 outside, 1 at the edge, (B, 1, H, W)."""
    current = (mask > 0).float()
    depth = current.clone()
    for _ in range(most - 1):
        current = current * (1 - F.max_pool2d(F.pad(1 - current, (1, 1, 1, 1)), 3, stride=1))
        depth = depth + current
    return depth
