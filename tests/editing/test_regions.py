"""Regions as rectangles, and those chosen for holes near, far and long."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nextscale.editing.masks import mask_of_boxes
from nextscale.editing.regions import (
    MOST_REGIONS,
    STEPS,
    Region,
    bounds,
    covered,
    holes_of,
    plan,
    region_around,
    regions_of,
    size_of,
    widest_gap,
)
from nextscale.pipeline import VARPipeline

MODEL = (64, 64)


def one_region(mask: torch.Tensor, model: tuple[int, int] = MODEL) -> Region:
    """The region around all of a mask, or around the image where the mask is empty."""
    image = size_of(mask)
    return region_around(bounds(mask) or Region(0, 0, *image), image, model)


def holes(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> torch.Tensor:
    return mask_of_boxes(boxes, size)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 2**31))
@settings(max_examples=40)
def test_an_image_of_the_models_size_has_one_region(height: int, width: int, seed: int) -> None:
    mask = (torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.02).float()
    regions = plan(mask, MODEL)
    if max(height, width) <= 2 * min(height, width):
        assert regions == [one_region(mask)]


def test_holes_near_each_other_share_a_region() -> None:
    mask = holes((900, 1200), (500, 400, 560, 460), (600, 430, 640, 480))
    assert plan(mask, MODEL) == [one_region(mask)]


@pytest.mark.parametrize(
    ("size", "boxes"),
    [
        ((500, 8000), [(7850, 100, 7950, 220), (20, 200, 120, 300)]),
        ((8000, 500), [(7, 7700, 57, 7760), (400, 0, 450, 50)]),
        ((3000, 3000), [(10, 10, 70, 70), (2900, 10, 2950, 60), (10, 2900, 50, 2940), (2900, 2900, 2930, 2930)]),
        ((400, 6000), [(number * 600, 100, number * 600 + 60 - number, 160) for number in range(10)]),
    ],
)
def test_holes_far_apart_have_regions_of_their_own(
    size: tuple[int, int], boxes: list[tuple[int, int, int, int]]
) -> None:
    regions = plan(holes(size, *boxes), MODEL)
    assert regions == [one_region(holes(size, box)) for box in boxes], "the largest hole's first"
    assert max(region.area for region in regions) <= 180 * 180


def test_a_pair_and_a_hole_far_from_it_have_two_regions() -> None:
    pair, far = [(500, 400, 560, 460), (600, 430, 640, 480)], (2000, 400, 2040, 440)
    regions = plan(holes((900, 2400), *pair, far), MODEL)
    assert regions == [one_region(holes((900, 2400), *boxes)) for boxes in (pair, [far])]


def test_very_many_holes_share_a_region() -> None:
    boxes = [(x, y, x + 4, y + 4) for x in range(0, 1000, 200) for y in range(0, 1000, 200)]
    assert len(boxes) > MOST_REGIONS
    mask = holes((1000, 1000), *boxes)
    assert plan(mask, MODEL) == [one_region(mask)]


@pytest.mark.parametrize(
    ("size", "box", "most"),
    [
        ((500, 8000), (100, 240, 7900, 260), 500),
        ((500, 8000), (0, 0, 8000, 500), 500),
        ((8000, 500), (240, 50, 260, 8000), 500),
        ((1, 40_000), (0, 0, 40_000, 1), 1024),
        ((1, 2000), (0, 0, 2000, 1), 64),
        ((70, 2000), (0, 0, 2000, 70), 70),
    ],
)
def test_a_hole_longer_than_the_image_allows_is_gone_through_in_steps(
    size: tuple[int, int], box: tuple[int, int, int, int], most: int
) -> None:
    regions = plan(holes(size, box), MODEL)
    assert max(max(region.height, region.width) for region in regions) <= most
    assert 2 <= len(regions) <= 100
    for before, after in itertools.pairwise(regions):
        shared = max(after.left - before.left, after.top - before.top)
        assert 0 < shared <= after.width // 2, "half of what each sees was seen by the one before"
    made = sum((paste(size, region, hole) for region, hole in holes_of(holes(size, box), regions)), torch.zeros(size))
    assert torch.equal(made, holes(size, box)), "all of the hole is made anew, once"


def paste(size: tuple[int, int], region: Region, hole: torch.Tensor) -> torch.Tensor:
    return region.inside(size).seen_from(Region(0, 0, *size)).paste(torch.zeros(size), hole)


@given(st.integers(1, 300), st.integers(1, 3000), st.integers(0, 2**31), st.integers(1, 5))
@settings(max_examples=60)
@example(height=1, width=3000, seed=2, count=5)
def test_any_mask_is_made_anew_once_by_bounded_regions(height: int, width: int, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    mask = torch.zeros(height, width)
    for _ in range(count):
        top, left = rng.integers(0, height), rng.integers(0, width)
        mask[top : top + rng.integers(1, 90), left : left + rng.integers(1, 900)] = float(rng.random()) / 2 + 0.5
    regions = plan(mask, MODEL)
    todo = holes_of(mask, regions)
    assert torch.equal(sum((paste((height, width), *one) for one in todo), torch.zeros(height, width)), mask)
    step = max(height, width) / (4 * STEPS) + 1  # along a hole in a thin image
    for region in regions:
        assert region.height <= max(2 * height, 64, step) and region.width <= max(2 * width, 64, step)


def test_an_empty_mask_has_one_bounded_region() -> None:
    assert plan(torch.zeros(500, 8000), MODEL) == regions_of(Region(0, 0, 500, 8000), (500, 8000), MODEL)[:1]
    ((region, hole),) = holes_of(torch.zeros(30, 40), plan(torch.zeros(30, 40), MODEL))
    assert region == one_region(torch.zeros(30, 40)) and hole.sum() == 0


@pytest.mark.parametrize(
    ("filled", "gap"),
    [([1, 0, 0, 1, 0, 1], (2, 1)), ([1, 1], (0, 0)), ([1], (0, 0)), ([0, 0], (0, 0)), ([0, 1, 0, 1, 0, 0], (1, 2))],
)
def test_widest_gaps(filled: list[int], gap: tuple[int, int]) -> None:
    assert widest_gap(torch.tensor(filled).bool()) == gap


class Largest(TorchDispatchMode):
    """Remembers the most numbers that a tensor held."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.most = max([self.most, *sizes])
        return result


@pytest.mark.parametrize(
    "boxes",
    [[(20, 20, 30, 30), (960, 80, 975, 90)], [(500, 50, 510, 60)], [(10, 50, 990, 52)], None],
)
def test_memory_follows_the_holes_not_the_images_shape(pipeline: VARPipeline, boxes: Any) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 1000, 3), dtype=np.uint8))
    with Largest() as seen:
        pipeline.inpaint(image, boxes, classes="red")
    mask = 4 * 100 * 1000
    assert seen.most <= mask, "no tensor is larger than the mask: never the whole image, nor a square around it"


@given(st.integers(4, 90), st.integers(4, 90), st.integers(4, 40), st.integers(4, 40), st.integers(0, 2**31))
def test_regions_hold_the_mask_and_cut_and_paste_are_inverse(
    height: int, width: int, model_height: int, model_width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, height), rng.integers(0, width)
    bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
    mask = mask_of_boxes([(int(left), int(top), int(right), int(bottom))], (height, width))
    region = one_region(mask, (model_height, model_width))
    assert region.top <= top and region.top + region.height >= bottom
    assert region.left <= left and region.left + region.width >= right
    assert abs(region.height / region.width * model_width / model_height - 1) < 1, "near the model's aspect"
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    covers = (rows >= region.top) & (rows < region.top + region.height)
    covers = covers & (columns >= region.left) & (columns < region.left + region.width)
    image = torch.rand(1, 3, height, width)
    part = region.cut(image)
    assert part.shape == (1, 3, region.height, region.width)
    assert torch.equal(region.cut(image, fill=2.0) == 2, region.cut(~covers[None, None], fill=1.0).expand_as(part))
    assert torch.equal(region.paste(torch.zeros_like(image), part), image * covers)
    small = covered(region.cut(mask, fill=1.0), (model_height, model_width))
    assert small.max() == 1


def test_a_region_lies_inside_a_large_image() -> None:
    mask = mask_of_boxes([(4900, 10, 4990, 60)], (3000, 5000))
    region = one_region(mask, (256, 256))
    assert region == Region(0, 5000 - 256, 256, 256)
