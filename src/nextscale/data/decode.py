"""Read any image, upright and in 8-bit RGB: the one reader of files, uploads, PIL images and arrays.

Shapes: (H, W) pixels.
"""

from __future__ import annotations

import importlib
import io
import logging
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from nextscale.environment import quiet_warnings

logger = logging.getLogger(__name__)

ImageLike = Image.Image | np.ndarray | bytes | str | Path
"""What is read as an image: a PIL image, an array, a file's bytes, or its path."""

SIXTEEN_BITS = 65535.0
OVER = 1.02
"""What floats may exceed the white of their range by: resampling overshoots."""
BRIGHT = 16.0
"""Floats up to here are 0 to 1 with highlights, which are clipped."""
DARK = 1 / 16
"""Share of its declared range that a deep image must exceed somewhere not to be called dark."""
MOST_NOTES = 10
"""Images of which one thing is told; of a data set's others it is not."""

ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 274, 258, 262, 339  # TIFF tags, the first EXIF's too
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")


class UnreadableImage(ValueError):
    """A file that is not an image, or a damaged one; the message names it and says why."""


@dataclass(frozen=True)
class Decoded:
    """An image as it was stored, but upright and without metadata."""

    image: Image.Image  # more than 8 bits are of mode I or F
    white: float = 255.0
    "What is white in the modes I and F."
    notes: tuple[str, ...] = ()
    "What was decided about the range of its values, for whoever looks at it as a picture."


def read_image(
    source: ImageLike, *, name: str = "", formats: tuple[str, ...] | None = None, most_pixels: int = 0
) -> Image.Image:
    """Any image as 8-bit RGB, upright by its EXIF orientation; reading the result again changes nothing.

    Grey, palette, CMYK, LAB, 1-bit and deeper images are converted, transparency is laid over white, and of an
    animation the first frame counts. White is what the declared depth says (`white_of`), never the brightest pixel.
    Arrays are (H, W), (H, W, 3) or (H, W, 4) of bool, uint8, uint16, or floats from 0 to 1. `formats` restricts the
    kinds of files (Pillow's names), `most_pixels` their size, before anything is decoded. Raises UnreadableImage.
    """
    name = name or (str(source) if isinstance(source, (str, Path)) else "image")
    decoded = decode(source, name=name, formats=formats, most_pixels=most_pixels)
    for note in decoded.notes:
        tell(name, note)
    try:
        return _to_rgb(decoded)
    except Exception as error:  # damaged profiles and palettes
        raise UnreadableImage(f"{name}: {_reason(error, b'', formats)}") from error


def decode(source: ImageLike, *, name: str, formats: tuple[str, ...] | None = None, most_pixels: int = 0) -> Decoded:
    """The image in the mode it has, upright. Raises UnreadableImage."""
    if isinstance(source, np.ndarray):
        source = _of_array(source, name)
    if not isinstance(source, (bytes, str, Path, Image.Image)):
        raise UnreadableImage(f"{name}: is {type(source).__name__}; expected a file, bytes, a PIL image or an array")
    try:
        with (
            quiet_warnings(),  # damaged metadata is no news
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
    """Raises ValueError for an image of more than `most` pixels, where that is not 0."""
    if most and image.width * image.height > most:
        raise ValueError(f"has {image.width} x {image.height} pixels; at most {most:,} are taken")


def white_of(image: Image.Image, values: np.ndarray) -> tuple[float, tuple[str, ...]]:
    """What is white in an image of mode I or F, by its declared depth, and what should be told.

    Whole numbers: 65,535, or what the file's bits can hold where they are fewer; 32-bit files hold 16-bit values, or
    where they exceed these, values up to the greatest. Floats: 1, with highlights up to 16 clipped; beyond them 255
    or 65,535, whichever holds the greatest, or else the greatest. Below 0 is black.
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
    """How a file starts; nothing of what is no file."""
    if isinstance(source, bytes):
        return source[:64]
    if not isinstance(source, (str, Path)) or not Path(source).is_file():
        return b""
    with Path(source).open("rb") as file:
        return file.read(64)


def is_heic(head: bytes) -> bool:
    """Whether a file that starts so is a HEIC picture."""
    return head[4:8] == b"ftyp" and any(brand in head[8:] for brand in HEIC_BRANDS)


def registered_heif() -> bool:
    """Whether Pillow reads HEIC now: where pillow-heif is installed."""
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
        image = image.convert("LA")  # the one form that Pillow makes of it
    if image.mode == "RGB" and max(kept.get("transparency", (0,))) > 255:  # of 16 bits, which Pillow makes 8
        kept["transparency"] = tuple(value >> 8 for value in kept["transparency"])
    upright = image.copy() if turn is None else image.transpose(turn)
    upright.info = kept
    return Decoded(upright, white, notes)


def _orientation(image: Image.Image) -> int:
    """By EXIF; 1, upright, where it is damaged: the picture itself is sound."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever a damaged block makes of Pillow's reader
        return 1


def _deep(image: Image.Image) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """Values (H, W) of more than 8 bits as int32 or float32, what is white, and what should be told."""
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
    """Raises UnreadableImage for what is no picture."""
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
        return str(error).splitlines()[0] if str(error) else type(error).__name__
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


_told: Counter[str] = Counter()


def tell(name: str, note: str) -> None:
    """Log what was decided about an image, of the first few that it concerns."""
    kind = "".join(letter for letter in note if letter.isalpha())
    _told[kind] += 1
    if _told[kind] <= MOST_NOTES:
        more = " (further images like it are not named)" if _told[kind] == MOST_NOTES else ""
        logger.warning("%s: %s%s", name, note, more)
