"""Images in and out of requests: uploads are untrusted, results are PNG, JPEG or WebP.

Shapes: (H, W) pixels.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from nextscale.data.decode import decode_rgb
from nextscale.editing.masks import read_mask
from nextscale.quiet import quiet_warnings

FORMATS = ("PNG", "JPEG", "WEBP")
"""Kinds of images that are read; Pillow knows many more, some of which call other programs."""


def uploaded(data: bytes, name: str, most_pixels: int) -> Image.Image:
    """An upload, looked at but not yet decoded. Raises ValueError for what is no image or has too many pixels."""
    try:
        with quiet_warnings():  # how many pixels there are is checked here
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: has too many pixels; at most {most_pixels:,} are taken") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise ValueError(f"{name}: not a PNG, JPEG or WebP image") from error
    if image.width * image.height > most_pixels:
        raise ValueError(f"{name}: has {image.width} x {image.height} pixels; at most {most_pixels:,} are taken")
    return image


def uploaded_image(data: bytes, most_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8. Raises ValueError."""
    uploaded(data, "image", most_pixels)
    return np.array(decode_rgb(data))


def uploaded_mask(data: bytes, size: tuple[int, int], most_pixels: int) -> np.ndarray:
    """(H, W) float32 of the image's size, 1 where it is transparent, or else white. Raises ValueError."""
    mask = uploaded(data, "mask", most_pixels)
    try:
        mask.load()
    except Exception as error:
        raise ValueError("mask: a damaged image") from error
    return read_mask(mask, size).numpy()


def transparent_part(data: bytes, most_pixels: int) -> np.ndarray | None:
    """(H, W) float32, 1 where an uploaded image is transparent; None where it is opaque. Raises ValueError."""
    image = uploaded(data, "image", most_pixels)
    if not image.has_transparency_data:
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A")).astype(np.float32) / 255
    return 1 - alpha if alpha.min() < 1 else None


def encoded(pixels: np.ndarray, form: str, quality: int | None = None) -> str:
    """(H, W, 3) uint8 in base64; `quality` in percent counts for JPEG and WebP, None takes Pillow's."""
    buffer = io.BytesIO()
    options = {} if quality is None or form == "png" else {"quality": quality}
    Image.fromarray(pixels).save(buffer, format=form.upper(), **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
