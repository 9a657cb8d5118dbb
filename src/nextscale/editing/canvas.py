"""An image while it is edited: its pixels, the parts regenerated so far, and how a part is fitted in without a seam.

Only what a region covers is turned into floats. Shapes: B variations, C channels, (H, W) the image, (h, w) a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from nextscale.editing.regions import Region
from nextscale.pictures import to_tensor, to_uint8

SMOOTHING = 8
"""Averages over neighbours at each level of a fill."""


@dataclass(frozen=True)
class Canvas:
    """Pixels, and parts laid over them in order; a part holds every variation, or one that serves all."""

    pixels: np.ndarray  # (H, W, 3) uint8
    parts: tuple[tuple[Region, Tensor], ...] = ()  # each inside the image, (B, 3, h, w) in [-1, 1]

    @classmethod
    def of(cls, image: Image.Image) -> Canvas:
        """The canvas of an RGB image."""
        return cls(np.asarray(image))

    def cut(self, place: Region) -> Tensor:
        """The pixels at a place inside the image, (B, 3, h, w) in [-1, 1]; (1, 3, h, w) where no part overlaps it."""
        base = to_tensor([self.pixels[place.pixels]])
        for region, part in self.parts:
            shared = region.overlap(place)
            if shared.area:
                base = base.expand(max(len(base), len(part)), -1, -1, -1).clone()
                base[(..., *shared.seen_from(place).pixels)] = part[(..., *shared.seen_from(region).pixels)].to(base)
        return base

    def put(self, place: Region, part: Tensor) -> Canvas:
        """The canvas with another part (B, 3, h, w) on top."""
        return Canvas(self.pixels, (*self.parts, (place, part)))

    def variation(self, number: int) -> Canvas:
        """The canvas of one variation."""
        parts = ((region, part[min(number, len(part) - 1)][None]) for region, part in self.parts)
        return Canvas(self.pixels, tuple(parts))

    def images(self) -> list[Image.Image]:
        """One image per variation; pixels under no part are unchanged, to the bit."""
        images = []
        for number in range(max((len(part) for _, part in self.parts), default=1)):
            pixels = self.pixels.copy()
            for region, part in self.variation(number).parts:
                pixels[region.pixels] = to_uint8(part[0]).permute(1, 2, 0).cpu().numpy()
            images.append(Image.fromarray(pixels))
        return images


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


def filled(images: Tensor, known: Tensor) -> Tensor:
    """Images whose unknown pixels are filled from around them; unchanged where nothing is known."""
    some = known.flatten(1).any(dim=1).view(-1, 1, 1, 1)
    return torch.where(known | ~some, images, spread_inward(images, known))


def spread_inward(values: Tensor, known: Tensor) -> Tensor:
    """Fill the unknown smoothly from around it: (B, C, H, W), (B, 1, H, W) bool -> (B, C, H, W).

    Known values are averaged level by level, each half as large, until every pixel is covered; on the way back each
    level is filled from the coarser one and smoothed. Known values stay.
    """
    weight = known.float()
    return pulled(values * weight, weight, values.shape[-2:])


def pulled(sums: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """Weighted means where weights are positive; elsewhere they come from coarser levels."""
    here = sums / weight.clamp_min(1e-6)
    if bool((weight > 0).all()) or max(size) == 1:
        return here
    coarse = [-(-side // 2) for side in size]
    padding = (0, coarse[1] * 2 - size[1], 0, coarse[0] * 2 - size[0])
    halved, halved_weight = (F.avg_pool2d(F.pad(part, padding), 2) for part in (sums, weight))
    below = pulled(halved, halved_weight, coarse)
    current = F.interpolate(below, scale_factor=2, mode="bilinear")[..., : size[0], : size[1]]
    known = weight > 0
    current = torch.where(known, here, current)
    for _ in range(SMOOTHING):
        around = F.avg_pool2d(F.pad(current, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        current = torch.where(known, here, around)
    return current
