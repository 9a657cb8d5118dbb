"""Tensors to PIL images, and images to grids and strips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.data.loader import to_uint8
from nextscale.files import complete_file


def to_images(batch: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] -> PIL images. Raises ValueError for values that are not finite, which would be black."""
    wrong = ~torch.isfinite(batch).flatten(1).all(dim=1)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {len(batch)} images hold values that are not finite: the weights are damaged, or "
            "too large for this precision; try --precision fp32"
        )
    return [Image.fromarray(pixels) for pixels in to_uint8(batch).permute(0, 2, 3, 1).cpu().numpy()]


def grid(images: Sequence[Image.Image], *, columns: int | None = None, gap: int = 2) -> Image.Image:
    """All images of one size in rows, near square unless `columns` is given, on white."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = -(-len(images) // columns)
    width, height = images[0].size
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * (height + gap), column * (width + gap)
        sheet[top : top + height, left : left + width] = np.asarray(image)
    return Image.fromarray(sheet)


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG that appears only when complete."""
    with complete_file(path) as partial:
        image.save(partial, format="PNG")
