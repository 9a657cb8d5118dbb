"""Images made larger: windows of the model's size that always see enough of what is there already.

Sizes are (height, width) in pixels. Shapes: (H, W) canvas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.editing.regions import Region

ENOUGH = 0.5
"""Share of a window that should be known."""
STEPS = 8
"""Places of a window per its side that are considered."""


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
        """The larger image (1, 3, H, W), empty where it is new, and the mask (H, W) of what is new."""
        margins = (self.left, self.right, self.top, self.bottom)
        known = torch.ones(image.shape[-2:], device=image.device)
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


def window_size(image: tuple[int, int], model: tuple[int, int]) -> tuple[int, int]:
    """Size of the windows: the model's, or as much larger as the image is."""
    scale = max(1.0, min(image[0] / model[0], image[1] / model[1]))
    return round(model[0] * scale), round(model[1] * scale)


def windows(mask: Tensor, size: tuple[int, int]) -> Iterator[Region]:
    """Windows that cover the mask (H, W) of what is new, in order; each is known when the next is chosen.

    Of the windows of which enough is known, the one with the most new pixels; if there is none, the best known.
    """
    shrink = min(1.0, mask.shape[0] / size[0], mask.shape[1] / size[1])  # a small canvas has smaller windows
    height, width = (max(1, round(side * shrink)) for side in size)
    new = (mask > 0).cpu().double()
    tops, lefts = (
        sorted({*range(0, room - side + 1, max(1, side // STEPS)), room - side})
        for side, room in zip((height, width), mask.shape, strict=True)
    )
    while bool(new.any()):
        table = F.pad(new.cumsum(0).cumsum(1), (1, 0, 1, 0))
        top, left = torch.tensor(tops)[:, None], torch.tensor(lefts)[None, :]
        count = (
            table[top + height, left + width] - table[top, left + width] - table[top + height, left] + table[top, left]
        )
        known = 1 - count / (height * width)
        worth = torch.where(known >= ENOUGH, 1 + count / (height * width), known)
        best = int(worth.where(count > 0, -1.0).argmax())
        chosen = Region(tops[best // len(lefts)], lefts[best % len(lefts)], height, width)
        yield chosen
        new[chosen.top : chosen.top + height, chosen.left : chosen.left + width] = 0
