"""Images in and out of requests: uploads are untrusted, results are PNG, JPEG or WebP.

Shapes: (H, W) pixels.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from nextscale.data.decode import decode, read_image
from nextscale.editing.masks import read_mask, transparency

FORMATS = ("PNG", "JPEG", "WEBP")
"""Kinds of images that are read; Pillow knows many more, some of which call other programs."""


def uploaded_image(data: bytes, most_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8. Raises ValueError."""
    return np.array(read_image(data, name="image", formats=FORMATS, most_pixels=most_pixels))


def uploaded_mask(data: bytes, size: tuple[int, int], most_pixels: int) -> np.ndarray:
    """(H, W) float32 of the image's size, from 0, kept, to 1, regenerated. Raises ValueError."""
    return read_mask(data, size, name="mask", formats=FORMATS, most_pixels=most_pixels).numpy()


def transparent_part(data: bytes, most_pixels: int) -> np.ndarray | None:
    """(H, W) float32, 1 where an uploaded image is transparent; None where it is opaque. Raises ValueError."""
    decoded = decode(data, name="image", formats=FORMATS, most_pixels=most_pixels)
    return transparency(decoded.image)


def encoded(pixels: np.ndarray, form: str, quality: int | None = None) -> str:
    """(H, W, 3) uint8 in base64; `quality` in percent counts for JPEG and WebP, None takes Pillow's."""
    buffer = io.BytesIO()
    options = {} if quality is None or form == "png" else {"quality": quality}
    Image.fromarray(pixels).save(buffer, format=form.upper(), **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
