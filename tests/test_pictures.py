"""Grids to look at: small pictures are enlarged, large ones reduced, names stand below."""

import numpy as np
import pytest
from PIL import Image

from nextscale.pictures import GAP, LINE, grid, sheet


def noise(side: int, number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize(("side", "shown"), [(16, 192), (64, 192), (100, 200), (192, 192), (256, 256), (1024, 512)])
def test_tiles_are_easy_to_see(side: int, shown: int) -> None:
    made = sheet([noise(side, number) for number in range(4)])
    assert made.size == (2 * shown + GAP, 2 * shown + GAP)


def test_enlarged_pixels_stay_squares() -> None:
    image = noise(64, 0)
    tile = np.asarray(sheet([image]))
    assert np.array_equal(tile, np.asarray(image).repeat(3, axis=0).repeat(3, axis=1))


def test_names_stand_below_their_pictures() -> None:
    images = [noise(64, number) for number in range(3)]
    named = np.asarray(sheet(images, ["maze", "", "a name that is much too long for a picture of this size"]))
    plain = np.asarray(sheet(images))
    assert named.shape[0] == plain.shape[0] + 2 * LINE
    assert np.array_equal(named[:192, :192], plain[:192, :192])
    below = [named[192 : 192 + LINE, :192], named[192 : 192 + LINE, 192 + GAP :]]
    assert below[0].min() < 100 and below[1].min() == 255, "a name, and none"
    long = named[-LINE:, :192].min(axis=(0, 2))
    assert long.min() < 100 and named[-LINE:, 192:].min() == 255, "cut to its picture"


def test_a_plain_grid_is_as_it_was() -> None:
    images = [noise(8, number) for number in range(3)]
    made = np.asarray(grid(images))
    assert made.shape == (18, 18, 3)
    assert np.array_equal(made[:8, 10:], np.asarray(images[1]))
    assert (made[10:, 10:] == 255).all()
