"""Read any image, upright and in 8-bit RGB, and crop it: the one reader of files, uploads, PIL images and arrays.

Shapes: (H, W) pixels; sizes are (height, width).
"""

from __future__ import annotations

import importlib
import io
import logging
import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from nextscale.environment import quiet_warnings
from nextscale.errors import one_line

logger = logging.getLogger(__name__)

ImageLike = Image.Image | np.ndarray | bytes | str | Path
"""What can be read as an image: a PIL image, an array, a file's bytes, or its path."""

SIXTEEN_BITS = 65535.0
OVER = 1.02
"""Factor by which floats may exceed the white of their range: resampling overshoots."""
BRIGHT = 16.0
"""Floats up to this value count as 0 to 1 with highlights, which are clipped."""
DARK = 1 / 16
"""An image of more than 8 bits is called dark if no value exceeds this share of its declared range."""
MOST_NOTES = 10
"""Images that a note of one kind is logged for; for further images it is not."""
LONGEST = 16
"""Largest area of a whole resized image, in crops. Of longer images only the part inside the crop is resized."""

ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 274, 258, 262, 339  # TIFF tags, the first EXIF's too
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by its EXIF orientation."""
METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")


class UnreadableImage(ValueError):
    """A file that is not an image, or a damaged one; the message names it and says why."""


@dataclass(frozen=True)
class Decoded:
    """An image in its own mode, upright and without metadata."""

    image: Image.Image
    "Of mode I or F where it has more than 8 bits."
    white: float = 255.0
    "The value of white in the modes I and F."
    notes: tuple[str, ...] = ()
    "What was assumed about the range of its values; worth logging when it is read as a picture."


def read_image(
    source: ImageLike, *, name: str = "", formats: tuple[str, ...] | None = None, most_pixels: int = 0
) -> Image.Image:
    """Any image as 8-bit RGB, upright by its EXIF orientation; reading the result again changes nothing.

    Images of all modes are converted: grey, palette, CMYK, LAB, 1-bit, more than 8 bits. Transparency is laid over
    white; of an animation the first frame is taken. White is given by the declared depth (`white_of`), not by the
    brightest pixel. Arrays are (H, W), (H, W, 3) or (H, W, 4) of bool, uint8, uint16, or floats from 0 to 1. `formats`
    restricts the kinds of files (Pillow's names) and `most_pixels` their size, both before anything is decoded. Raises
    UnreadableImage.
    """
    name = name or (str(source) if isinstance(source, (str, Path)) else "image")
    decoded = decode(source, name=name, formats=formats, most_pixels=most_pixels)
    for note in decoded.notes:
        log_note(name, note)
    try:
        return _to_rgb(decoded)
    except Exception as error:  # damaged profiles and palettes
        raise UnreadableImage(f"{name}: {_reason(error, b'', formats)}") from error


def decode(source: ImageLike, *, name: str, formats: tuple[str, ...] | None = None, most_pixels: int = 0) -> Decoded:
    """The image in its own mode, upright. Raises UnreadableImage."""
    if isinstance(source, np.ndarray):
        source = _of_array(source, name)
    if not isinstance(source, (bytes, str, Path, Image.Image)):
        raise UnreadableImage(f"{name}: is {type(source).__name__}; expected a file, bytes, a PIL image or an array")
    try:
        with (
            quiet_warnings(),  # such as those of damaged metadata
            nullcontext(source) if isinstance(source, Image.Image) else _opened(source, formats) as image,
        ):
            require_pixels(image, most_pixels or (0 if image is source else Image.MAX_IMAGE_PIXELS or 0))
            return _upright(image)
    except Image.DecompressionBombError as error:
        most = most_pixels or Image.MAX_IMAGE_PIXELS or 0
        raise UnreadableImage(f"{name}: has too many pixels; at most {most:,} are taken") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise UnreadableImage(f"{name}: {_reason(error, _head(source), formats)}") from error


def require_pixels(image: Image.Image, most: int) -> None:
    """Raises ValueError for an image of more than `most` pixels; 0 allows any number."""
    if most and image.width * image.height > most:
        raise ValueError(f"has {image.width} x {image.height} pixels; at most {most:,} are taken")


def white_of(image: Image.Image, values: np.ndarray) -> tuple[float, tuple[str, ...]]:
    """The value of white in an image of mode I or F, by its declared depth, and notes on what was assumed.

    Whole numbers: 65,535, or the largest value of the file's depth where that is below 16 bits. 32-bit files are taken
    to hold 16-bit values; where a value exceeds these, the greatest is white. Floats: 1 where the greatest value is at
    most 16 (what is above 1 is clipped), else 255 or 65,535 where that is enough, else the greatest value. Values below
    0 are black.
    """
    top, least = float(values.max(initial=0.0)), float(values.min(initial=0.0))
    whole = values.dtype.kind in "iu"
    if whole:
        white = SIXTEEN_BITS
        tags = getattr(image, "tag_v2", {})
        bits = (tags.get(BITS_PER_SAMPLE) or (16,))[0]
        if bits <= 16:
            white = 2.0 ** (bits - ((tags.get(SAMPLE_FORMAT) or (1,))[0] == 2)) - 1
    else:
        white = 1.0 if top <= BRIGHT else 255.0 if top <= 255 * OVER else SIXTEEN_BITS
    notes: list[str] = []
    if top > white * OVER:
        if whole or top > BRIGHT:
            white = top
            notes.append(f"values reach {top:g}, which is taken as white")
        else:
            notes.append(f"values reach {top:g}; those above 1 are white")
    elif not whole and white > 1:
        notes.append(f"floats reach {top:g}; {white:g} is taken as white")
    elif 0 < top < DARK * white and whole:
        notes.append(f"no value is above {top:g} of {white:g}, so that the picture is nearly black")
    if least < 0:
        notes.append(f"values reach down to {least:g}; those below 0 are black")
    return white, tuple(notes)


def _opened(source: bytes | str | Path, formats: tuple[str, ...] | None) -> Image.Image:
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        if formats is not None or not is_heic(_head(source)) or not registered_heif():
            raise
        return Image.open(file)


def _head(source: ImageLike) -> bytes:
    """The first 64 bytes of a file; empty for anything else."""
    if isinstance(source, bytes):
        return source[:64]
    if not isinstance(source, (str, Path)) or not Path(source).is_file():
        return b""
    with Path(source).open("rb") as file:
        return file.read(64)


def is_heic(head: bytes) -> bool:
    """Whether a file with these first bytes is a HEIC picture."""
    return head[4:8] == b"ftyp" and any(brand in head[8:] for brand in HEIC_BRANDS)


def registered_heif() -> bool:
    """Teach Pillow to read HEIC; False where pillow-heif is not installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _upright(image: Image.Image) -> Decoded:
    image.load()
    turn = TRANSPOSITIONS.get(_orientation(image))
    white, notes = 255.0, ()
    kept = {key: value for key, value in image.info.items() if key not in METADATA}
    if image.mode.startswith(("I", "F")):
        values, white, notes = _deep(image)
        image = Image.fromarray(values)
    elif image.mode == "La":
        image = image.convert("LA")  # the only mode that Pillow converts it to
    if image.mode == "RGB" and max(kept.get("transparency", (0,))) > 255:  # of 16 bits; the pixels have 8
        kept["transparency"] = tuple(value >> 8 for value in kept["transparency"])
    upright = image.copy() if turn is None else image.transpose(turn)
    upright.info = kept
    return Decoded(upright, white, notes)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) where the EXIF block is damaged, for the picture itself may be fine."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged block raises many kinds
        return 1


def _deep(image: Image.Image) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """Values (H, W) of more than 8 bits as int32 or float32, the value of white, and notes on what was assumed."""
    values = np.asarray(image)
    values = values.astype(np.float32 if values.dtype.kind == "f" else np.int32)
    notes: tuple[str, ...] = ()
    if values.dtype.kind == "f":
        missing = int((~np.isfinite(values)).sum())
        if missing:
            values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
            notes = (f"{missing:,} values are not numbers; they are black",)
    white, more = white_of(image, values)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # the file says that 0 is white
        values = (white - values).astype(values.dtype)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values = np.where(values == transparent, values.dtype.type(white), values)
    return values, white, notes + more


def _to_rgb(decoded: Decoded) -> Image.Image:
    image = decoded.image
    if image.mode in ("I", "F"):
        shares = np.asarray(image).astype(np.float64) / decoded.white
        image = Image.fromarray(np.clip(shares * 255 + 0.5, 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layered)
    picture = image if image.mode == "RGB" else image.convert("RGB")
    picture.info = {}
    return picture


def _of_array(values: np.ndarray, name: str) -> Image.Image:
    """An array as an image. Raises UnreadableImage for shapes, types and values that are none."""
    shape = values.shape
    if 0 in shape or values.ndim not in (2, 3) or (values.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise UnreadableImage(f"{name}: an array of shape {shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
    if values.dtype == bool:
        values = values * np.uint8(255)
    elif values.dtype == np.uint16:
        values = (values / 257 + 0.5).astype(np.uint8)
    elif values.dtype.kind == "f":
        if not (np.isfinite(values).all() and values.min() >= 1 - OVER and values.max() <= OVER):
            raise UnreadableImage(f"{name}: floats from {values.min():g} to {values.max():g}; expected 0 to 1")
        values = (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    if values.dtype != np.uint8:
        raise UnreadableImage(f"{name}: an array of {values.dtype}; expected uint8, uint16, bool or floats from 0 to 1")
    return Image.fromarray(values[..., 0] if values.ndim == 3 and shape[2] == 1 else values)


def _reason(error: Exception, head: bytes, formats: tuple[str, ...] | None) -> str:
    """Why a file that starts with `head` cannot be read, in one line."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image file"
    if not isinstance(error, UnidentifiedImageError):
        return one_line(error)
    if is_heic(head):
        needs = "a HEIC picture, which pillow-heif reads: pip install pillow-heif, or nextscale[heic]"
        return needs if formats is None else f"HEIC, {_expected(formats)}"
    if formats is None:
        if not head:
            return "empty, not an image file"
        if head.lstrip()[:1] == b"<" and b"svg" not in head:
            return "a web page (HTML or XML), not an image file"
        if head.startswith(b"version https://git-lfs"):
            return "a pointer of Git LFS, not an image file; fetch it with git lfs pull"
        if head[:4] in (b"II*\0", b"MM\0*"):
            return "a TIFF of a kind that is not read; save it with 8 or 16 bits a channel"
    return _expected(formats)


def _expected(formats: tuple[str, ...] | None) -> str:
    if formats is None:
        return "not an image file"
    *others, last = [name.replace("WEBP", "WebP") for name in formats]
    return f"not a {', '.join(others)} or {last} image"


_noted: Counter[str] = Counter()


def log_note(name: str, note: str) -> None:
    """Log a note on an image, unless `MOST_NOTES` images had one of the same kind (the same words) before."""
    kind = "".join(letter for letter in note if letter.isalpha())
    _noted[kind] += 1
    if _noted[kind] <= MOST_NOTES:
        more = " (further images like it are not named)" if _noted[kind] == MOST_NOTES else ""
        logger.warning("%s: %s%s", name, note, more)


def center_crop(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resize to cover `size` and crop the centre: RGB image -> (H, W, 3) uint8. One of that size is not changed."""
    covered = _cover(image, *size)
    return _crop(image, covered, (covered[0] - size[0]) // 2, (covered[1] - size[1]) // 2, size)


def random_crop(
    image: Image.Image,
    size: tuple[int, int],
    *,
    generator: np.random.Generator,
    enlarge: float = 1.125,
    flip: bool = False,
) -> np.ndarray:
    """Resize to cover `enlarge` x `size` and crop at random; `flip` mirrors half of the crops: -> (H, W, 3) uint8."""
    covered = _cover(image, round(size[0] * enlarge), round(size[1] * enlarge))
    top = int(generator.integers(0, covered[0] - size[0] + 1))
    left = int(generator.integers(0, covered[1] - size[1] + 1))
    pixels = _crop(image, covered, top, left, size)
    return pixels[:, ::-1] if flip and generator.random() < 0.5 else pixels


def _cover(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """The smallest (height, width) of the image's aspect that covers the given one."""
    scale = max(height / image.height, width / image.width)
    return max(height, round(image.height * scale)), max(width, round(image.width * scale))


def _crop(image: Image.Image, covered: tuple[int, int], top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """Resize to `covered`, antialiased, and cut out `size` at (top, left): -> (H, W, 3) uint8.

    Memory depends on `size`, not on the aspect: a line of 20,000,000 x 1 pixels would otherwise grow to gigabytes.
    """
    height, width = size
    if covered[0] * covered[1] > LONGEST * height * width:
        (above, below), (before, behind) = (
            _span(*axis) for axis in zip((image.height, image.width), covered, (top, left), size, strict=True)
        )
        part = image.crop((before[0], above[0], behind[0], below[0]))
        image = part.resize((width, height), Image.Resampling.LANCZOS, (before[1], above[1], behind[1], below[1]))
        return np.array(image, dtype=np.uint8)
    whole = covered[1], covered[0]
    if image.size != whole:
        image = image.resize(whole, Image.Resampling.LANCZOS)
    return np.array(image.crop((left, top, left + width, top + height)), dtype=np.uint8)  # a writable copy


def _span(length: int, covered: int, start: int, size: int) -> tuple[tuple[int, float], tuple[int, float]]:
    """Where along one axis `size` pixels from `start` on come from, when `length` pixels are resized to `covered`.

    Returns the two ends; each is the pixel to crop the source at, with a margin for the filter, and the exact place
    within that crop.
    """
    step = length / covered
    margin = math.ceil(3 * max(step, 1)) + 1  # Lanczos reads three pixels on either side
    first, last = start * step, min((start + size) * step, length)
    low, high = max(math.floor(first) - margin, 0), min(math.ceil(last) + margin, length)
    return (low, first - low), (high, last - low)
