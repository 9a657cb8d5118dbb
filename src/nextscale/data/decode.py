"""Decode any image file to 8-bit RGB."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nextscale.quiet import quiet_warnings


class UnreadableImage(ValueError):
    """A file that is not an image, or a damaged one; the message names it and says why."""


def decode_rgb(data: bytes | Path, *, name: str = "image") -> Image.Image:
    """Decode bytes or a file to RGB, upright by its EXIF orientation.

    Grey, palette, CMYK, 1-bit and 16-bit images are converted (16 bits scaled, not clipped), transparency
    is laid over white, and of an animation the first frame counts. Raises UnreadableImage.
    """
    try:
        # Damaged EXIF and the like are no news.
        with quiet_warnings(), Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as image:
            require_pixels(image)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify image file" in reason:
            reason = "not an image file"
        raise UnreadableImage(f"{name}: {reason}") from error


def require_pixels(image: Image.Image) -> None:
    """Raises ValueError for an image of more pixels than Pillow's limit, of which it only warns."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise ValueError(f"has {image.width} x {image.height} pixels; at most {most:,} are taken")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _deep_grey(np.asarray(image).astype(np.float64)).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def _deep_grey(values: np.ndarray) -> Image.Image:
    """8-bit grey from 16-bit (0-65535), unit-range float, or 8-bit values kept in a wider type."""
    top = values.max(initial=0.0)
    white = 65535.0 if top > 255 else 255.0 if top > 1 else 1.0
    return Image.fromarray(np.clip(values / white * 255 + 0.5, 0, 255).astype(np.uint8))
