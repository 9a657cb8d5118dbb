"""Every kind of image file becomes 8-bit RGB; damaged ones are named."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nextscale.data.decode import UnreadableImage, decode_rgb
from nextscale.data.transform import center_crop, random_crop


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_rgb_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(decode_rgb(encoded(Image.fromarray(pixels)))), pixels)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "I;16", "I", "CMYK"])
def test_white_and_black_of_every_mode(mode: str) -> None:
    white = {"I;16": 65535, "I": 65535, "1": 1, "CMYK": (0, 0, 0, 0), "LA": (255, 255), "RGBA": (255,) * 4}
    black = {"CMYK": (0, 0, 0, 255), "LA": (0, 255), "RGBA": (0, 0, 0, 255)}
    size = (4, 4)
    if mode == "P":
        image = Image.new("RGB", size, "white").convert("P")
        image.putpixel((0, 0), image.getpalette().index(0) // 3)  # pyright: ignore[reportOptionalMemberAccess]
    else:
        image = Image.new(mode, size, white.get(mode, 255))
        image.putpixel((0, 0), black.get(mode, 0))
    rgb = np.asarray(decode_rgb(encoded(image, "TIFF" if mode in ("CMYK", "I") else "PNG")))
    assert rgb.shape == (4, 4, 3)
    assert rgb[1:].min() == 255
    assert rgb[0, 0].max() == 0


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257 * 100, 257 * 200, 65535]], dtype=np.uint16)
    assert np.asarray(decode_rgb(encoded(Image.fromarray(values))))[0, :, 0].tolist() == [0, 100, 200, 255]


def test_transparency_lies_over_white() -> None:
    assert decode_rgb(encoded(Image.new("RGBA", (2, 2), (9, 9, 9, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_transparent_palette_lies_over_white() -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30] * 2)
    assert decode_rgb(encoded(image, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    image = decode_rgb(encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif))
    assert image.size == (2, 4)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_rgb(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("data", [b"", b"not an image", encoded(Image.new("RGB", (64, 64)))[:60]])
def test_damaged_data_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match=r"bad\.png: "):
        decode_rgb(path, name=str(path))


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(UnreadableImage):
        assert decode_rgb(data).mode == "RGB"


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20), st.floats(1, 2))
def test_crops_have_the_size_whatever_comes(height: int, width: int, h: int, w: int, enlarge: float) -> None:
    image = Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8))
    assert center_crop(image, (h, w)).shape == (h, w, 3)
    generator = np.random.default_rng(0)
    assert random_crop(image, (h, w), generator=generator, enlarge=enlarge, flip=True).shape == (h, w, 3)


def test_a_fitting_image_is_not_resampled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(center_crop(image, (8, 8)), pixels)
    generator = np.random.default_rng(0)
    assert np.array_equal(random_crop(image, (8, 8), generator=generator, enlarge=1.0), pixels)


def test_centre_and_mirror() -> None:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, 2:6] = np.arange(4)[None, :, None]
    image = Image.fromarray(pixels)
    assert center_crop(image, (4, 4))[0, :, 0].tolist() == [0, 1, 2, 3]
    seen = {
        tuple(random_crop(Image.fromarray(pixels[:, 2:6].copy()), (4, 4), generator=np.random.default_rng(seed),
                          enlarge=1.0, flip=True)[0, :, 0].tolist())
        for seed in range(20)
    }  # fmt: skip
    assert seen == {(0, 1, 2, 3), (3, 2, 1, 0)}
