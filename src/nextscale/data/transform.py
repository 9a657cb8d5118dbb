"""Resize and crop PIL images to arrays; sizes are (height, width) in pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image


def _cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Smallest antialiased resize that keeps the aspect and covers (height, width)."""
    scale = max(height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _crop(image: Image.Image, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array(image.crop((left, top, left + width, top + height)), dtype=np.uint8)  # a writable copy


def center_crop(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Cover `size`, crop the centre: RGB image -> (H, W, 3) uint8. Untouched where it fits already."""
    covered = _cover(image, *size)
    return _crop(covered, (covered.height - size[0]) // 2, (covered.width - size[1]) // 2, size)


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
    top = int(generator.integers(0, covered.height - size[0] + 1))
    left = int(generator.integers(0, covered.width - size[1] + 1))
    pixels = _crop(covered, top, left, size)
    return pixels[:, ::-1] if flip and generator.random() < 0.5 else pixels
