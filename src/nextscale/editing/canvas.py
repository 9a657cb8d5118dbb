"""An image while it is edited: its pixels, and the parts that were made anew.

Only what a region covers is ever turned into floats. Shapes: B variations, (H, W) the image, (h, w) a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from nextscale.editing.regions import Region
from nextscale.pictures import to_tensor, to_uint8


@dataclass(frozen=True)
class Canvas:
    """Pixels, and parts put over them in order; every part is of as many variations, or one for all."""

    pixels: np.ndarray  # (H, W, 3) uint8
    parts: tuple[tuple[Region, Tensor], ...] = ()  # each inside the image, (B, 3, h, w) in [-1, 1]

    @classmethod
    def of(cls, image: Image.Image) -> Canvas:
        """Of an RGB image."""
        return cls(np.asarray(image))

    def cut(self, place: Region) -> Tensor:
        """What is at a place inside the image, (B, 3, h, w) in [-1, 1]; (1, 3, h, w) where no part differs."""
        base = to_tensor([self.pixels[place.pixels]])
        for region, part in self.parts:
            shared = overlap(region, place)
            if shared.area:
                base = base.expand(max(len(base), len(part)), -1, -1, -1).clone()
                base[(..., *shared.seen_from(place).pixels)] = part[(..., *shared.seen_from(region).pixels)].to(base)
        return base

    def put(self, place: Region, part: Tensor) -> Canvas:
        """With a part (B, 3, h, w) over what is at its place."""
        return Canvas(self.pixels, (*self.parts, (place, part)))

    def variation(self, number: int) -> Canvas:
        """That of one variation alone."""
        return Canvas(
            self.pixels, tuple((region, part[min(number, len(part) - 1)][None]) for region, part in self.parts)
        )

    def images(self) -> list[Image.Image]:
        """One image per variation; what no part covers is as it was, to the bit."""
        images = []
        for number in range(max((len(part) for _, part in self.parts), default=1)):
            pixels = self.pixels.copy()
            for region, part in self.parts:
                one = part[min(number, len(part) - 1)]
                pixels[region.pixels] = to_uint8(one).permute(1, 2, 0).cpu().numpy()
            images.append(Image.fromarray(pixels))
        return images


def overlap(first: Region, second: Region) -> Region:
    """What two regions share; of no area where they share nothing."""
    top, left = max(first.top, second.top), max(first.left, second.left)
    bottom = min(first.top + first.height, second.top + second.height)
    right = min(first.left + first.width, second.left + second.width)
    return Region(top, left, max(0, bottom - top), max(0, right - left))
