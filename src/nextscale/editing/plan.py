"""Which regions of an image are edited, one after the other, so that a mask is made anew.

Memory and time follow the holes and the model's size: holes far apart get regions of their own, and a hole that is
longer than the image allows is gone through in steps. Sizes are (height, width) in pixels. Shapes: (H, W) mask.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nextscale.editing.regions import CONTEXT, Region, Size, bounds, placed, region_of

BEYOND = 2
"""How many times as long as the image a region may be before its hole is gone through in steps."""
APART = 1 / 8
"""Share of the pixels of one region for all up to which regions for each are chosen: context is worth something."""
MOST_REGIONS = 16
"""Groups of holes with regions of their own, at most."""
STEPS = 8
"""Steps along a long hole, about, where its image is large enough."""
WIDEST_STEP = 1024
"""Pixels that a step has at most where it reaches beyond a thin image, to be done in a few dozen of them."""


def plan(mask: Tensor, model: Size) -> list[Region]:
    """Regions that cover a mask in order, the largest hole's first; around everything where there is none.

    One region wherever all holes are near each other. In a later region everything that an earlier one has made anew
    is known.
    """
    image = (mask.shape[0], mask.shape[1])
    holes = mask > 0
    whole = bounds(holes)
    if whole is None:
        return regions_of(Region(0, 0, *image), image, model)[:1]
    groups = apart(holes, whole, model)
    groups.sort(key=lambda box: -int(holes[box.pixels].sum()))
    return [region for box in groups for region in regions_of(box, image, model)]


def regions_of(box: Region, image: Size, model: Size) -> list[Region]:
    """The region around a box, or steps along it where that would reach far beyond the image."""
    region = region_of(box, image, model)
    if region.height <= BEYOND * image[0] and region.width <= BEYOND * image[1]:
        return [region]
    aspect = model[0] / model[1]
    short, long = sorted((box.width, box.height / aspect))
    most = max(min(image[1], image[0] / aspect), min(long / (4 * STEPS), WIDEST_STEP))
    across = max(min(max(CONTEXT * short, long / STEPS), most), model[1])
    size = max(1, round(across * aspect)), max(1, round(across))
    return [
        Region(top, left, *size)
        for top in _starts(box.top, box.height, size[0], image[0])
        for left in _starts(box.left, box.width, size[1], image[1])
    ]


def _starts(start: int, length: int, side: int, room: int) -> list[int]:
    """Where windows of `side` start that go through an interval, each half over the one before."""
    if length <= side:
        return [placed(start + length / 2, side, room)]
    step = max(1, side // 2)
    starts = [max(0, start - step)]
    while starts[-1] + side < start + length:
        starts.append(min(starts[-1] + step, room - side))
    return starts


def apart(holes: Tensor, box: Region, model: Size) -> list[Region]:
    """Boxes of groups of holes (H, W) bool in a box: itself, unless regions for each save enough."""
    image = (holes.shape[0], holes.shape[1])
    together = area(box, image, model)
    if together * APART < 2 * min(model[0], image[0]) * min(model[1], image[1]):
        return [box]  # two regions of the model's size would not save enough
    halves = split(holes, box)
    if halves is None:
        return [box]
    groups = [group for half in halves for group in apart(holes, half, model)]
    alone = sum(area(group, image, model) for group in groups)
    return groups if len(groups) <= MOST_REGIONS and alone <= APART * together else [box]


def area(box: Region, image: Size, model: Size) -> int:
    """Pixels of the regions that go through a box."""
    return sum(region.area for region in regions_of(box, image, model))


def split(holes: Tensor, box: Region) -> tuple[Region, Region] | None:
    """The boxes of what lies on both sides of the widest gap in a box; None where there is no gap."""
    inside = holes[box.pixels]
    gaps = [(*widest_gap(inside.any(dim=1 - axis)), axis) for axis in (0, 1)]
    width, start, axis = max(gaps)
    if width == 0:
        return None
    parts = inside[:start], inside[start:]
    if axis == 1:
        parts = inside[:, :start], inside[:, start:]
    first, second = (bounds(part) for part in parts)
    assert first is not None and second is not None, "a box of holes is tight"
    offset = (start, 0) if axis == 0 else (0, start)
    return (
        Region(box.top + first.top, box.left + first.left, first.height, first.width),
        Region(box.top + offset[0] + second.top, box.left + offset[1] + second.left, second.height, second.width),
    )


def widest_gap(filled: Tensor) -> tuple[int, int]:
    """Length and start of the longest run of False between True values of (N,); (0, 0) without one."""
    places = filled.nonzero().flatten()
    if len(places) < 2:
        return 0, 0
    lengths = places.diff() - 1
    longest = int(lengths.argmax())
    return (int(lengths[longest]), int(places[longest]) + 1) if lengths[longest] > 0 else (0, 0)


def pieces(mask: Tensor, regions: Sequence[Region]) -> list[tuple[Region, Tensor]]:
    """Each region with what it makes anew: the mask (h, w) inside the image, less what earlier ones have made.

    Regions with nothing left to do are passed over, but for the one of an empty mask.
    """
    left = mask.clone()
    found = []
    for region in regions:
        place = region.inside((mask.shape[0], mask.shape[1])).pixels
        hole = left[place].clone()
        if bool(hole.any()) or len(regions) == 1:
            found.append((region, hole))
        left[place] = 0
    return found
