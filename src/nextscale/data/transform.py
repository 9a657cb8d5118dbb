"""Resize and crop PIL images to arrays; sizes are (height, width) in pixels."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

LONGEST = 16
"""Area that a resized image may have, in crops; of longer ones the part that the crop shows is resized alone."""


def _cover(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """Smallest (height, width) that keeps the aspect and covers the one given."""
    scale = max(height / image.height, width / image.width)
    return max(height, round(image.height * scale)), max(width, round(image.width * scale))


def _crop(image: Image.Image, covered: tuple[int, int], top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """Resize to `covered`, antialiased, and cut `size` out: -> (H, W, 3) uint8.

    Memory follows `size`, not the aspect: a line of 20,000,000 x 1 pixels would be enlarged to gigabytes.
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
    """First and last pixel that `size` pixels from `start` on are made of, when `length` pixels become `covered`.

    Each as the whole pixel to crop at, with what the filter looks at beside it, and the place within that crop.
    """
    step = length / covered
    beside = math.ceil(3 * max(step, 1)) + 1  # Lanczos looks at three pixels on either side
    first, last = start * step, min((start + size) * step, length)
    low, high = max(math.floor(first) - beside, 0), min(math.ceil(last) + beside, length)
    return (low, first - low), (high, last - low)


def center_crop(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Cover `size`, crop the centre: RGB image -> (H, W, 3) uint8. Untouched where it fits already."""
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
    """Cover `enlarge` x `size`, crop at random, mirror half of them with `flip`: -> (H, W, 3) uint8."""
    covered = _cover(image, round(size[0] * enlarge), round(size[1] * enlarge))
    top = int(generator.integers(0, covered[0] - size[0] + 1))
    left = int(generator.integers(0, covered[1] - size[1] + 1))
    pixels = _crop(image, covered, top, left, size)
    return pixels[:, ::-1] if flip and generator.random() < 0.5 else pixels
