"""Conversions that lose nothing, and grids to look at: small pictures enlarged, large ones reduced, names below."""

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.pictures import GAP, LINE, grid, sheet, to_float, to_images, to_tensor, to_uint8


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


def test_float_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert to_float(values).aminmax() == (-1, 1)
    assert torch.equal(to_uint8(to_float(values)), values)
    assert to_uint8(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


def test_images_to_a_tensor_and_back() -> None:
    images = [noise(8, number) for number in range(3)]
    batch = to_tensor(images)
    assert batch.shape == (3, 3, 8, 8)
    assert torch.equal(batch, to_tensor([np.asarray(image) for image in images]))
    assert [image.tobytes() for image in to_images(batch)] == [image.tobytes() for image in images]


def test_values_that_are_not_finite_are_refused() -> None:
    batch = torch.zeros(2, 3, 4, 4)
    batch[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 of 2 images hold values that are not finite"):
        to_images(batch)
