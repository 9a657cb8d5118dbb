"""Images made larger: by new pixels at the sides (out-painting), or by the model's finer scales (upscaling).

Sizes are (height, width) in pixels. Shapes: (H, W) the larger image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from nextscale.data.decode import center_crop
from nextscale.editing.apply import Editor
from nextscale.editing.canvas import Canvas
from nextscale.editing.config import EditConfig
from nextscale.editing.regions import Region, resized, size_of
from nextscale.families.var import VAR
from nextscale.pyramid import ScaleSchedule, Size
from nextscale.tokenizer.vqvae import VQVAE

ENOUGH = 0.5
"""Share of a window that should be known."""
STEPS = 8
"""Candidate positions of a window per length of its side."""


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """Pixels added at each side."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        sides = (self.left, self.right, self.top, self.bottom)
        if min(sides) < 0 or max(sides) == 0:
            raise ValueError(f"an image is expanded by pixels from 0, at some side by more, got {sides}")

    def canvas(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The larger image (1, 3, H, W), 0 where it is new, and the mask (H, W) of what is new."""
        margins = (self.left, self.right, self.top, self.bottom)
        known = torch.ones(size_of(image), device=image.device)
        return F.pad(image, margins), 1 - F.pad(known, margins)


def parse_expansion(text: str) -> Expansion:
    """From text such as left=32,right=32,bottom=16. Raises ValueError."""
    sides: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in ("left", "right", "top", "bottom") or not value.strip().isdigit() or name in sides:
            raise ValueError(f"expand: {part.strip()!r} is not understood; expected left=32,right=32,top=0,bottom=16")
        sides[name] = int(value)
    return Expansion(**sides)


def outpainting(model: VAR, tokenizer: VQVAE, image: Image.Image, expansion: Expansion, config: EditConfig) -> Editor:
    """The editor that adds new pixels around an image, window by window."""
    shown = Canvas.of(image).cut(Region(0, 0, image.height, image.width))
    pixels, mask = expansion.canvas(shown)
    height, width = size_of(mask)
    empty = Canvas(np.zeros((height, width, 3), np.uint8)).put(Region(0, 0, height, width), pixels)
    size = window_size((image.height, image.width), tokenizer.config.image_size)
    known = resized(shown.to(model.device), tokenizer.config.image_size)
    return Editor(model, tokenizer, empty, mask, config, list(windows(mask, size)), known)


def window_size(image: Size, model: Size) -> Size:
    """Size of the windows: the model's, or larger in the model's aspect where the image is larger."""
    scale = max(1.0, min(image[0] / model[0], image[1] / model[1]))
    return round(model[0] * scale), round(model[1] * scale)


def windows(mask: Tensor, size: Size) -> Iterator[Region]:
    """Windows that cover the mask (H, W) of what is new, in order; later windows see earlier ones as known.

    Each is, of the windows of which enough is known, the one with the most new pixels; where there is none, the one
    of which most is known.
    """
    shrink = min(1.0, mask.shape[0] / size[0], mask.shape[1] / size[1])  # a small image has smaller windows
    height, width = (max(1, round(side * shrink)) for side in size)
    new = (mask > 0).cpu().double()
    tops, lefts = (
        sorted({*range(0, room - side + 1, max(1, side // STEPS)), room - side})
        for side, room in zip((height, width), mask.shape, strict=True)
    )
    top, left = torch.tensor(tops)[:, None], torch.tensor(lefts)[None, :]
    bottom, right = top + height, left + width
    while bool(new.any()):
        sums = F.pad(new.cumsum(0).cumsum(1), (1, 0, 1, 0))  # of all pixels above and to the left
        count = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        known = 1 - count / (height * width)
        worth = torch.where(known >= ENOUGH, 1 + count / (height * width), known)
        row, column = divmod(int(worth.where(count > 0, -1.0).argmax()), len(lefts))
        chosen = Region(tops[row], lefts[column], height, width)
        yield chosen
        new[chosen.pixels] = 0


def enlarged(picture: Image.Image, model: Size, schedule: ScaleSchedule) -> tuple[Image.Image, int]:
    """A small image at the model's size, and the number of scales whose maps it resolves, at least the first.

    Raises ValueError for an image that is not smaller than the model's.
    """
    height, width = model
    share = max(picture.height / height, picture.width / width)
    if share >= 1:
        raise ValueError(
            f"the image has {picture.width} x {picture.height} pixels already; upscaling makes those of less than "
            f"{width} x {height} as large as that"
        )
    known = sum(size[0] / schedule.final[0] <= share for size in schedule)
    return Image.fromarray(center_crop(picture, model)), max(1, known)
