"""Rectangles of an image, and which of them the model sees, one after the other, to regenerate what a mask covers.

A region has the model's aspect and includes what is around a hole. Time and memory follow the holes and the model's
size: holes far apart get a region each, and a hole much longer than the image is wide is edited in steps along it.
Sizes are (height, width) in pixels. Shapes: (H, W) the image and its mask, (h, w) a region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.pyramid import Size

CONTEXT = 1.5
"""Sides of the region as a multiple of the hole's box, where the image has the room."""
BEYOND = 2
"""A region may be this many times as long as the image before its hole is edited in steps."""
APART = 1 / 8
"""Regions for each group of holes are chosen where they have at most this share of the pixels of one region for all."""
MOST_REGIONS = 16
"""Most groups of holes with regions of their own."""
STEPS = 8
"""Approximate number of steps along a long hole, where its image is large enough."""
WIDEST_STEP = 1024
"""Most pixels along a step that reaches beyond a thin image, so that a few dozen steps are enough."""


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

    def overlap(self, other: Region) -> Region:
        """The rectangle that both share; its area is 0 where they share none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.height, other.top + other.height)
        right = min(self.left + self.width, other.left + other.width)
        return Region(top, left, max(0, bottom - top), max(0, right - left))

    def inside(self, image: Size) -> Region:
        """The part inside an image of that size."""
        return self.overlap(Region(0, 0, *image))

    def seen_from(self, other: Region) -> Region:
        """The same rectangle relative to the upper left corner of another."""
        return Region(self.top - other.top, self.left - other.left, self.height, self.width)

    def cut(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """(..., H, W) -> (..., h, w), `fill` beyond the edges."""
        inside = self.inside(size_of(values))
        part = values.new_full((*values.shape[:-2], self.height, self.width), fill)
        part[(..., *inside.seen_from(self).pixels)] = values[(..., *inside.pixels)]
        return part

    def paste(self, values: Tensor, part: Tensor) -> Tensor:
        """`values` (..., H, W) with the region's pixels replaced by those of `part` (..., h, w)."""
        inside = self.inside(size_of(values))
        pasted = values.clone()
        pasted[(..., *inside.pixels)] = part[(..., *inside.seen_from(self).pixels)]
        return pasted


def size_of(values: Tensor) -> Size:
    """Height and width of (..., H, W)."""
    return values.shape[-2], values.shape[-1]


def resized(values: Tensor, size: Size) -> Tensor:
    """Images (B, C, H, W) at another size, antialiased; the same at equal size."""
    if size_of(values) == size:
        return values
    return F.interpolate(values, size=size, mode="bicubic", antialias=True).clamp(-1, 1)


def covered(mask: Tensor, size: Size) -> Tensor:
    """A mask (H, W) at another size: each pixel has the largest value it covers, so that none is lost."""
    height, width = mask.shape
    if (height, width) == size:
        return mask
    if height >= size[0] and width >= size[1]:
        return F.adaptive_max_pool2d(mask[None, None], size)[0, 0]
    return torch.where(F.interpolate(mask[None, None], size=size, mode="bilinear")[0, 0] > 0, 1.0, 0.0)


def plan(mask: Tensor, model: Size) -> list[Region]:
    """Regions that cover a mask (H, W), in the order of editing: the largest hole's first.

    One region where all holes are near each other. Later regions see as known what earlier ones have regenerated. An
    empty mask has one region around the whole image.
    """
    image, holes = size_of(mask), mask > 0
    box = bounds(holes)
    if box is None:
        return regions_of(Region(0, 0, *image), image, model)[:1]
    boxes = sorted(apart(holes, box, model), key=lambda box: -int(holes[box.pixels].sum()))
    return [region for box in boxes for region in regions_of(box, image, model)]


def bounds(mask: Tensor, within: Region | None = None) -> Region | None:
    """The smallest box around what is not 0 in a mask (H, W), or in a part of it; None where all is 0."""
    within = within or Region(0, 0, *size_of(mask))
    inside = mask[within.pixels]
    rows, columns = inside.any(dim=1).nonzero().flatten(), inside.any(dim=0).nonzero().flatten()
    if len(rows) == 0:
        return None
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
    return Region(within.top + top, within.left + left, height, width)


def region_around(box: Region, image: Size, model: Size) -> Region:
    """The region that a model of a size sees to edit a box of an image.

    It has the model's aspect, at least the model's size where the image has it, and lies inside the image unless the
    box is too long for that.
    """
    aspect = model[0] / model[1]
    least = max(box.width, box.height / aspect)  # the narrowest region of this aspect that holds the box
    most = min(image[1], image[0] / aspect)  # the widest one inside the image
    across = max(min(max(CONTEXT * least, model[1]), most), least)
    height, width = max(1, round(across * aspect), box.height), max(1, round(across), box.width)
    top = placed(box.top + box.height / 2, height, image[0])
    return Region(top, placed(box.left + box.width / 2, width, image[1]), height, width)


def placed(middle: float, length: int, room: int) -> int:
    """Start of an interval around `middle`, inside `room` where it fits."""
    if length >= room:
        return (room - length) // 2
    return min(max(0, round(middle - length / 2)), room - length)


def regions_of(box: Region, image: Size, model: Size) -> list[Region]:
    """The region around a box, or steps along the box where that would reach far beyond the image."""
    region = region_around(box, image, model)
    if region.height <= BEYOND * image[0] and region.width <= BEYOND * image[1]:
        return [region]
    aspect = model[0] / model[1]
    short, long = sorted((box.width, box.height / aspect))
    most = max(min(image[1], image[0] / aspect), min(long / (4 * STEPS), WIDEST_STEP))
    across = max(min(max(CONTEXT * short, long / STEPS), most), model[1])
    height, width = max(1, round(across * aspect)), max(1, round(across))
    return [
        Region(top, left, height, width)
        for top in starts(box.top, box.height, height, image[0])
        for left in starts(box.left, box.width, width, image[1])
    ]


def starts(start: int, length: int, side: int, room: int) -> list[int]:
    """Starts of intervals of length `side` that cover a longer one, each overlapping half of the one before."""
    if length <= side:
        return [placed(start + length / 2, side, room)]
    step = max(1, side // 2)
    found = [max(0, start - step)]
    while found[-1] + side < start + length:
        found.append(min(found[-1] + step, room - side))
    return found


def apart(holes: Tensor, box: Region, model: Size) -> list[Region]:
    """Boxes of groups of holes (H, W) bool in a box: the box itself unless regions for each save enough pixels."""
    image = size_of(holes)

    def area(box: Region) -> int:
        return sum(region.area for region in regions_of(box, image, model))

    together = area(box)
    if together * APART < 2 * min(model[0], image[0]) * min(model[1], image[1]):
        return [box]  # two regions of the model's size would not save enough
    groups = [group for half in split(holes, box) for group in apart(holes, half, model)]
    saves = sum(map(area, groups)) <= APART * together
    return groups if 1 < len(groups) <= MOST_REGIONS and saves else [box]


def split(holes: Tensor, box: Region) -> list[Region]:
    """The boxes of what lies on both sides of the widest gap in a box; none where there is no gap."""
    inside = holes[box.pixels]
    gap, start, axis = max((*widest_gap(inside.any(dim=1 - axis)), axis) for axis in (0, 1))
    if gap == 0:
        return []
    top, left, height, width = box.top, box.left, box.height, box.width
    sides = Region(top, left, start, width), Region(top + start, left, height - start, width)
    if axis == 1:
        sides = Region(top, left, height, start), Region(top, left + start, height, width - start)
    return [half for side in sides if (half := bounds(holes, side)) is not None]


def widest_gap(filled: Tensor) -> tuple[int, int]:
    """Length and start of the longest run of False between True values of (N,); (0, 0) without one."""
    places = filled.nonzero().flatten()
    if len(places) < 2:
        return 0, 0
    lengths = places.diff() - 1
    longest = int(lengths.argmax())
    return (int(lengths[longest]), int(places[longest]) + 1) if lengths[longest] > 0 else (0, 0)


def holes_of(mask: Tensor, regions: Sequence[Region]) -> list[tuple[Region, Tensor]]:
    """Each region with its hole: the mask (h, w) of its part inside the image, without what earlier ones regenerate.

    Regions that have nothing left to regenerate are skipped, but for the one of an empty mask.
    """
    left = mask.clone()
    found = []
    for region in regions:
        pixels = region.inside(size_of(mask)).pixels
        hole = left[pixels].clone()
        if bool(hole.any()) or len(regions) == 1:
            found.append((region, hole))
        left[pixels] = 0
    return found
