"""Tensors to PIL images, and images to grids and strips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nextscale.data.loader import to_uint8
from nextscale.files import complete_file

LEAST, MOST = 192, 512
"""Pixels of the longer side that a picture in a sheet has at least and at most."""
LINE, GAP = 20, 6
"""Height of a name, and white between pictures, in pixels."""


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


def sheet(images: Sequence[Image.Image], names: Sequence[str] = (), *, columns: int | None = None) -> Image.Image:
    """Images of one size to look at, each with its name below: as `grid`, but small ones enlarged, large ones reduced.

    Images below 192 pixels a side are enlarged by a whole factor, pixels staying squares; above 512 they are reduced.
    """
    width, height = images[0].size
    factor = max(1, math.ceil(LEAST / max(width, height)))
    size = (width * factor, height * factor)
    if factor == 1:
        share = min(1.0, MOST / max(width, height))
        size = (max(1, round(width * share)), max(1, round(height * share)))
    way = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    shown = [image if image.size == size else image.resize(size, way) for image in images]
    if any(names):
        shown = [captioned(image, name) for image, name in zip(shown, names, strict=True)]
    return grid(shown, columns=columns, gap=GAP)


def captioned(image: Image.Image, name: str) -> Image.Image:
    """An image on white with its name below, cut where it is wider."""
    tile = Image.new("RGB", (image.width, image.height + LINE), "white")
    tile.paste(image, (0, 0))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=LINE - 5)
    while pen.textlength(name, font=font) > image.width and len(name) > 2:
        name = name.rstrip("…")[:-1] + "…"
    pen.text((image.width / 2, image.height + LINE / 2), name, fill="black", font=font, anchor="mm")
    return tile


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG that appears only when complete."""
    with complete_file(path) as partial:
        image.save(partial, format="PNG")
