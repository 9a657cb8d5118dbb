"""Conversions between PIL images, arrays and tensors; grids and sheets of images. Shapes: (B, 3, H, W)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nextscale.files import complete_file

LEAST, MOST = 192, 512
"""Least and greatest length of the longer side of a picture in a sheet, in pixels."""
LINE, GAP = 20, 6
"""Height of a name, and of the white between pictures, in pixels."""


def stack_pixels(images: Sequence[Image.Image | np.ndarray]) -> Tensor:
    """RGB images or arrays (H, W, 3) of one size -> uint8."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return pixels.float().div(127.5).sub(1)


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8 0..255, rounded; the inverse of `to_float`."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_tensor(images: Sequence[Image.Image | np.ndarray]) -> Tensor:
    """RGB images or arrays (H, W, 3) of one size -> float32 in [-1, 1]; the inverse of `to_images`."""
    return to_float(stack_pixels(images))


def to_images(batch: Tensor) -> list[Image.Image]:
    """Float in [-1, 1] -> PIL images. Raises ValueError for values that are not finite, which would be black."""
    pixels = to_uint8(batch).permute(0, 2, 3, 1)  # before the check, for which a GPU is waited
    wrong = ~torch.isfinite(batch).flatten(1).all(dim=1)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {len(batch)} images hold values that are not finite: the weights are damaged, or "
            "too large for this precision; try --precision fp32"
        )
    return [Image.fromarray(image) for image in pixels.cpu().numpy()]


def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (..., 3, H, W) in [-1, 1] -> (...)."""
    error = (images.float() - reconstructions.float()).square().flatten(-3).mean(dim=-1)
    return 10 * (4 / error.clamp_min(1e-10)).log10()


def grid(images: Sequence[Image.Image], *, columns: int | None = None, gap: int = 2) -> Image.Image:
    """Images of one size in rows on white; about as many rows as columns unless `columns` is given."""
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
    """A `grid` to look at, each image with its name below; all images have one size.

    Images below 192 pixels a side are enlarged by a whole factor, pixel for pixel; those above 512 are reduced.
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
    """An image on white with its name below; a name wider than the image is cut."""
    tile = Image.new("RGB", (image.width, image.height + LINE), "white")
    tile.paste(image, (0, 0))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=LINE - 5)
    name = " ".join(name[: image.width].split())  # one line, of no more characters than there may be room for
    while pen.textlength(name, font=font) > image.width and len(name) > 2:
        name = name.rstrip("…")[:-1] + "…"
    pen.text((image.width / 2, image.height + LINE / 2), name, fill="black", font=font, anchor="mm")
    return tile


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG that appears only when complete."""
    with complete_file(path) as partial:
        image.save(partial, format="PNG")
