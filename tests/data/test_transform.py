"""Crops of images of any aspect: memory follows the crop, and the picture is the same either way."""

import numpy as np
import pytest
from PIL import Image

from nextscale.data import transform
from nextscale.data.transform import center_crop, random_crop


def scene(width: int, height: int) -> Image.Image:
    """A smooth picture."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [np.sin(rows / 9 + k) * 60 + np.cos(columns / 23 - k) * 60 + 125 for k in range(3)]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(900, 7), (7, 900), (3000, 60), (40, 2000), (1800, 90)])
def test_a_part_resized_alone_is_that_of_the_whole(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = scene(width, height)
    generators = [np.random.default_rng(5) for _ in range(2)]
    parts = center_crop(image, (24, 32)), random_crop(image, (24, 32), generator=generators[0])
    monkeypatch.setattr(transform, "LONGEST", 10**9)
    wholes = center_crop(image, (24, 32)), random_crop(image, (24, 32), generator=generators[1])
    for part, whole in zip(parts, wholes, strict=True):
        assert np.abs(part.astype(int) - whole.astype(int)).max() <= 2


@pytest.mark.parametrize("size", [(20_000_001, 1), (1, 19_999_999), (40_000, 1)])
def test_a_line_is_cropped_before_it_is_enlarged(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    plain = Image.Image.resize

    def watched(self: Image.Image, to: tuple[int, int], *arguments: object) -> Image.Image:
        nonlocal largest
        largest = max(largest, to[0] * to[1], self.width * self.height)
        assert largest <= 64 * 64, "the whole picture is resized"
        return plain(self, to, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Image.Image, "resize", watched)
    image = Image.new("RGB", size, (90, 120, 30))
    for pixels in (
        center_crop(image, (64, 64)),
        *(random_crop(image, (64, 64), generator=np.random.default_rng(seed)) for seed in range(5)),
    ):
        assert pixels.shape == (64, 64, 3)
        assert (pixels == (90, 120, 30)).all()
    assert largest == 64 * 64


def test_ordinary_images_are_resized_as_a_whole() -> None:
    image = scene(100, 60)
    resized = image.resize((80, 48), Image.Resampling.LANCZOS)
    assert np.array_equal(center_crop(image, (48, 48)), np.asarray(resized)[:, 16:64])
