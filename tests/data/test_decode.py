"""Every kind of image file becomes 8-bit RGB; damaged ones are named."""

import contextlib
import io
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nextscale.data import decode
from nextscale.data.decode import ImageLike, UnreadableImage, center_crop, random_crop, read_image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_rgb_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(read_image(encoded(Image.fromarray(pixels)))), pixels)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "I;16", "I", "CMYK"])
def test_white_and_black_of_every_mode(mode: str) -> None:
    white = {"I;16": 65535, "I": 65535, "1": 1, "CMYK": (0, 0, 0, 0), "LA": (255, 255), "RGBA": (255,) * 4}
    black = {"CMYK": (0, 0, 0, 255), "LA": (0, 255), "RGBA": (0, 0, 0, 255)}
    size = (4, 4)
    if mode == "P":
        image = Image.new("RGB", size, "white").convert("P")
        image.putpixel((0, 0), (image.getpalette() or []).index(0) // 3)
    else:
        image = Image.new(mode, size, white.get(mode, 255))
        image.putpixel((0, 0), black.get(mode, 0))
    rgb = np.asarray(read_image(encoded(image, "TIFF" if mode in ("CMYK", "I") else "PNG")))
    assert rgb.shape == (4, 4, 3)
    assert rgb[1:].min() == 255
    assert rgb[0, 0].max() == 0


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257 * 100, 257 * 200, 65535]], dtype=np.uint16)
    assert np.asarray(read_image(encoded(Image.fromarray(values))))[0, :, 0].tolist() == [0, 100, 200, 255]


def grey(source: ImageLike) -> list[int]:
    return np.asarray(read_image(source))[..., 0].ravel().tolist()


@pytest.mark.parametrize(
    ("values", "wanted", "said"),
    [
        (np.array([[0, 300]], np.uint16), [0, 1], "no value is above 300 of 65535"),
        (np.array([[0, 4095]], np.uint16), [0, 16], "nearly black"),
        (np.array([[-1000, 0, 32768, 65535]], np.int32), [0, 0, 128, 255], "below 0 are black"),
        (np.array([[0, 50_000, 200_000]], np.int32), [0, 64, 255], "200000, which is taken as white"),
        (np.array([[0, 0.5, 1.02]], np.float32), [0, 128, 255], ""),
        (np.array([[0, 0.5, 3.0]], np.float32), [0, 128, 255], "those above 1 are white"),
        (np.array([[0, 100, 200]], np.float32), [0, 100, 200], "255 is taken as white"),
        (np.array([[0, 25_700, 51_400]], np.float32), [0, 100, 200], "65535 is taken as white"),
        (np.array([[np.nan, np.inf, 0.5, 1.0]], np.float32), [0, 0, 128, 255], "2 values are not numbers"),
    ],
)
def test_white_is_what_the_depth_declares_and_doubts_are_told(
    values: np.ndarray, wanted: list[int], said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_noted", Counter())
    assert grey(encoded(Image.fromarray(values), "TIFF")) == wanted
    assert said in caplog.text and len(caplog.records) == bool(said)


def test_fewer_bits_than_sixteen_and_white_that_is_zero() -> None:
    values = np.array([[0, 25_700, 65_535]], np.uint16)
    assert grey(encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0})) == [255, 155, 0]
    assert grey(b"P5 2 1 1023\n" + struct.pack(">2H", 511, 1023)) == [127, 255]
    for bits, form, white in ((12, 1, 4095), (16, 1, 65_535), (16, 2, 32_767), (32, 2, 65_535)):
        image: Any = Image.new("I", (1, 1))
        image.tag_v2 = {258: (bits,), 339: (form,)}
        assert decode.white_of(image, np.array([[0, 5000]]))[0] == max(white, 5000 if bits == 12 else 0)


def test_a_thing_is_told_of_the_first_images_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_noted", Counter())
    for number in range(30):
        read_image(encoded(Image.fromarray(np.array([[0, 100 + number]], np.uint16))), name=f"{number}.png")
    assert len(caplog.records) == 10 and "further images like it are not named" in caplog.text


def with_block(block: bytes, image: Image.Image, kind: str) -> bytes:
    """A sound file with an EXIF block of one's own."""
    data = encoded(image, kind)
    if kind == "JPEG":
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + data[2:]
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("block", [b"", b"\0", b"\0\x08\0\x02\x01\x12\0\x03", b"II*\0\xff\xff\xff\xff" + b"\xff" * 20])
def test_damaged_exif_leaves_the_picture(kind: str, block: bytes) -> None:
    assert read_image(with_block(block, Image.new("RGB", (4, 2), (200, 0, 0)), kind)).size == (4, 2)


def test_an_orientation_beside_a_division_by_zero() -> None:
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x011A, 5, 1, 38)
    block = b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + struct.pack("<II", 0, 0)
    assert read_image(with_block(block, Image.new("RGB", (4, 2)), "JPEG")).size == (2, 4)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16"])
def test_all_orientations_as_pillow_turns_them_and_only_once(turn: int, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(values).convert(mode)
    stored = encoded(image, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(stored))
    if mode == "I;16":
        opened = Image.open(io.BytesIO(encoded(Image.fromarray(values[..., 0]), "PNG", exif=exif)))
    wanted = read_image(ImageOps.exif_transpose(opened))
    for source in (stored, Image.open(io.BytesIO(stored)), read_image(stored), read_image(read_image(stored))):
        assert np.array_equal(np.asarray(read_image(source)), np.asarray(wanted))


def test_files_images_and_arrays_read_alike(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "image.png")
    path = tmp_path / "image.png"
    wide, floats = pixels.astype(np.uint16) * 257, pixels / np.float32(255)
    for source in (path, str(path), path.read_bytes(), Image.open(path), pixels, wide, floats):
        assert np.array_equal(np.asarray(read_image(source)), pixels)
    clear = np.dstack([pixels, np.zeros((3, 4), np.uint8)])
    assert grey(clear) == [255] * 12 and grey(np.eye(2, dtype=bool)) == [255, 0, 0, 255]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2), np.uint8), r"shape \(2, 2, 2\)"),
        (np.full((2, 2, 3), 200.0), "floats from 200 to 200; expected 0 to 1"),
        (np.full((2, 2, 3), np.nan), "expected 0 to 1"),
        (np.zeros((2, 2, 3), np.int64), "an array of int64; expected uint8"),
    ],
)
def test_arrays_whose_range_is_not_known_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(UnreadableImage, match=message):
        read_image(array)


def test_what_is_no_image_at_all_is_refused() -> None:
    number: Any = 3
    with pytest.raises(UnreadableImage, match="image: is int; expected a file, bytes, a PIL image or an array"):
        read_image(number)


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBa", "LAB", "HSV", "YCbCr"])
def test_rarer_modes(mode: str) -> None:
    image = Image.new("L", (2, 2), 100).convert({"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")).convert(mode)
    assert abs(grey(image)[0] - 100) <= 2


def test_sixteen_bit_transparency() -> None:
    def file(colour: int, pixels: bytes, clear: bytes) -> bytes:
        header, data = struct.pack(">IIBBBBB", 2, 1, 16, colour, 0, 0, 0), zlib.compress(b"\0" + pixels)
        parts = ((b"IHDR", header), (b"tRNS", clear), (b"IDAT", data), (b"IEND", b""))
        chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    assert grey(file(0, struct.pack(">2H", 1000, 51_400), struct.pack(">H", 1000))) == [255, 200]
    assert grey(file(2, struct.pack(">6H", *[1000] * 3, *[51_400] * 3), struct.pack(">3H", *[1000] * 3))) == [255, 200]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty, not an image file"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"II*\0" + bytes(40), "a TIFF of a kind that is not read"),
        (b"no image", "not an image file"),
        (HEIC, "a HEIC picture, which pillow-heif reads: pip install pillow-heif"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-300], "truncated"),
    ],
)
def test_the_reason_is_named(data: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png"):
        with pytest.raises(UnreadableImage, match=f"photo: {reason}|photo: .*{reason}") as caught:
            read_image(source, name="photo")
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UnreadableImage, match=r"nowhere\.png: there is no such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(UnreadableImage, match="a folder, not an image file"):
        read_image(tmp_path)


def test_heic_is_read_where_pillow_heif_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(head: bytes) -> bool:
        return head[4:12] == b"ftypheic"

    def register() -> None:
        Image.register_open("TEST-HEIC", lambda *_: Image.new("RGB", (3, 2), "red"), accept)  # pyright: ignore

    try:
        monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
        assert read_image(HEIC).size == (3, 2)
        with pytest.raises(UnreadableImage, match="HEIC, not a PNG or JPEG image"):
            read_image(HEIC, formats=("PNG", "JPEG"))
    finally:
        Image.OPEN.pop("TEST-HEIC", None)
        Image.ID[:] = [name for name in Image.ID if name != "TEST-HEIC"]


def test_more_pixels_than_allowed_are_refused_before_they_are_decoded() -> None:
    data = encoded(Image.new("1", (3000, 2000)))
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(UnreadableImage, match="has 3000 x 2000 pixels; at most 1,000 are taken"):
            read_image(source, most_pixels=1000)


def test_transparency_lies_over_white() -> None:
    assert read_image(encoded(Image.new("RGBA", (2, 2), (9, 9, 9, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_transparent_palette_lies_over_white() -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30] * 2)
    assert read_image(encoded(image, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    image = read_image(encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif))
    assert image.size == (2, 4)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("data", [b"", b"not an image", encoded(Image.new("RGB", (64, 64)))[:60]])
def test_damaged_data_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match=r"bad\.png: "):
        read_image(path, name=str(path))


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(UnreadableImage):
        assert read_image(data).mode == "RGB"


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
    image, seen = Image.fromarray(pixels[:, 2:6].copy()), set()
    for seed in range(20):
        crop = random_crop(image, (4, 4), generator=np.random.default_rng(seed), enlarge=1.0, flip=True)
        seen.add(tuple(crop[0, :, 0].tolist()))
    assert seen == {(0, 1, 2, 3), (3, 2, 1, 0)}


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
    monkeypatch.setattr(decode, "LONGEST", 10**9)
    wholes = center_crop(image, (24, 32)), random_crop(image, (24, 32), generator=generators[1])
    for part, whole in zip(parts, wholes, strict=True):
        assert np.abs(part.astype(int) - whole.astype(int)).max() <= 2


@pytest.mark.parametrize("size", [(20_000_001, 1), (1, 19_999_999), (40_000, 1)])
def test_a_line_is_cropped_before_it_is_enlarged(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    plain = Image.Image.resize

    def watched(self: Image.Image, to: tuple[int, int], *arguments: Any) -> Image.Image:
        nonlocal largest
        largest = max(largest, to[0] * to[1], self.width * self.height)
        assert largest <= 64 * 64, "the whole picture is resized"
        return plain(self, to, *arguments)

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
