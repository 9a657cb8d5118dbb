"""The part of an image that a model looks at: around the mask, of the model's aspect.

Sizes are (height, width) in pixels. Shapes: C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CONTEXT = 1.5
"""Sides of the region as a multiple of the mask's box, where the image has the room."""


Size = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """A rectangle of an image; it may reach beyond the edges."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns of a region that lies inside the image."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def inside(self, image: Size) -> Region:
        """What of it lies in an image of that size."""
        top, left = min(max(0, self.top), image[0]), min(max(0, self.left), image[1])
        bottom, right = min(self.top + self.height, image[0]), min(self.left + self.width, image[1])
        return Region(top, left, max(0, bottom - top), max(0, right - left))

    def seen_from(self, other: Region) -> Region:
        """The same rectangle where the upper left corner of another is the origin."""
        return Region(self.top - other.top, self.left - other.left, self.height, self.width)

    def cut(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """(..., H, W) -> (..., height, width), `fill` beyond the edges."""
        height, width = values.shape[-2:]
        margins = (
            max(0, -self.left), max(0, self.left + self.width - width),
            max(0, -self.top), max(0, self.top + self.height - height),
        )  # fmt: skip
        padded = F.pad(values, margins, value=fill)
        top, left = self.top + margins[2], self.left + margins[0]
        return padded[..., top : top + self.height, left : left + self.width]

    def cover(self, values: Tensor) -> Tensor:
        """1 inside the region and 0 outside, (H, W) like `values`."""
        ones = torch.ones(self.height, self.width, device=values.device)
        return self.paste(torch.zeros_like(values), ones)

    def paste(self, values: Tensor, part: Tensor) -> Tensor:
        """`values` (..., H, W) with the region's pixels replaced by those of `part` (..., height, width)."""
        height, width = values.shape[-2:]
        top, left = max(0, self.top), max(0, self.left)
        bottom, right = min(height, self.top + self.height), min(width, self.left + self.width)
        pasted = values.clone()
        pasted[..., top:bottom, left:right] = part[
            ..., top - self.top : bottom - self.top, left - self.left : right - self.left
        ]
        return pasted


def region_around(mask: Tensor, model: Size) -> Region:
    """The region that a model of that size edits: the mask's (H, W) box, or all without one, and what is around it.

    It has the model's aspect, at least the model's size where the image has it, and lies inside the image unless the
    box is too long for that.
    """
    height, width = mask.shape
    return region_of(bounds(mask) or Region(0, 0, height, width), (height, width), model)


def bounds(mask: Tensor) -> Region | None:
    """The box of what is not 0 in a mask (H, W)."""
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    if len(rows) == 0:
        return None
    top, left = int(rows[0]), int(columns[0])
    return Region(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)


def region_of(box: Region, image: Size, model: Size) -> Region:
    """The region around a box, as `region_around` has it."""
    aspect = model[0] / model[1]
    least = max(box.width, box.height / aspect)  # what holds the box
    inside = min(image[1], image[0] / aspect)  # the widest region of this aspect in the image
    across = max(min(max(CONTEXT * least, model[1]), inside), least)
    size = max(1, round(across * aspect), box.height), max(1, round(across), box.width)
    return Region(
        placed(box.top + box.height / 2, size[0], image[0]), placed(box.left + box.width / 2, size[1], image[1]), *size
    )


def placed(middle: float, length: int, room: int) -> int:
    """Where an interval starts that lies around `middle`, inside `room` where it fits."""
    if length >= room:
        return (room - length) // 2
    return min(max(0, round(middle - length / 2)), room - length)


def resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) at another size, antialiased; the same at equal size."""
    if tuple(values.shape[-2:]) == size:
        return values
    return F.interpolate(values, size=size, mode="bicubic", antialias=True).clamp(-1, 1)


def covered(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (H, W) at another size: each pixel has the largest value it covers, so that none is lost."""
    if tuple(mask.shape) == size:
        return mask
    height, width = mask.shape
    if height >= size[0] and width >= size[1]:
        return F.adaptive_max_pool2d(mask[None, None], size)[0, 0]
    return torch.where(F.interpolate(mask[None, None], size=size, mode="bilinear")[0, 0] > 0, 1.0, 0.0)
