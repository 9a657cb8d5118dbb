"""Pictures that the page shows: small ones, and while work goes on only as many as cost less than the work.

Shapes: B variations, C latent channels, (h, w) latent grid. Imports no gradio.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from nextscale.editing.apply import RegionEditor
from nextscale.editing.canvas import composite
from nextscale.editing.regions import covered, resized
from nextscale.pictures import to_images

Step = TypeVar("Step")

PREVIEW = 512
"""Pixels of the longer side of a picture that is shown while work goes on, at most."""
FINISHED = 1024
"""Pixels of the longer side of a picture of finished images, at most."""
STRIP_ROWS, STRIP_COLUMNS = 8, 16
"""Rows (images) and columns (steps) of a strip at most."""
GAP = 4
EXACT = 2**16
"""Pixels up to which a picture is a PNG: above, JPEG is several times quicker and smaller."""
SHARE = 0.8
"""Time for previews as a share of the time for steps, at most."""


def fitted(image: Image.Image, most: int = PREVIEW) -> Image.Image:
    """An image whose longer side has at most `most` pixels; the same where it has no more. The page enlarges it."""
    return image if max(image.size) <= most else scaled(image, most, reducing_gap=2.0)


def scaled(image: Image.Image, longer: int, reducing_gap: float | None = None) -> Image.Image:
    """An image whose longer side has `longer` pixels."""
    share = longer / max(image.size)
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=reducing_gap)


def encoded(image: Image.Image, folder: Path) -> Path:
    """Write a picture to a new file."""
    folder.mkdir(parents=True, exist_ok=True)
    name = secrets.token_hex(8)
    if image.width * image.height <= EXACT:
        image.save(path := folder / f"{name}.png", compress_level=1)
    else:
        image.save(path := folder / f"{name}.jpg", quality=90, subsampling=0)
    return path


def paced(
    steps: Iterator[Step], share: float = SHARE, clock: Callable[[], float] = time.perf_counter
) -> Iterator[tuple[Step, bool]]:
    """Each step, and whether there is time for a preview of it.

    There is where all previews so far, and one more that takes as long as the last, take at most `share` of the time of
    the steps. So cheap previews are made at all steps, and dear ones at some.
    """
    began, worked, last = clock(), 0.0, 0.0
    while True:
        before = clock()
        step = next(steps, None)
        now = clock()
        if step is None:
            return
        worked += now - before
        wanted = now - began - worked + last <= share * worked
        yield step, wanted
        if wanted:
            last = clock() - now


class RegionPreview:
    """The region around the mask of an edit at `PREVIEW` pixels at most; the rest of the image is not computed."""

    @torch.no_grad()
    def __init__(self, editor: RegionEditor) -> None:
        region, (height, width) = editor.region, editor.image.shape[-2:]
        self.editor = editor
        self.share = min(1.0, PREVIEW / max(region.height, region.width))
        self.size = max(1, round(region.height * self.share)), max(1, round(region.width * self.share))
        self._before = resized(region.cut(editor.image), self.size)
        self._hole = covered(region.cut(editor.mask, fill=1.0), self.size)[None, None]
        # The region may reach beyond the image's edges, where there is nothing to show.
        top, bottom = (min(max(0, edge - region.top), region.height) for edge in (0, height))
        left, right = (min(max(0, edge - region.left), region.width) for edge in (0, width))
        self._rows = slice(round(top * self.share), max(1, round(bottom * self.share)))
        self._columns = slice(round(left * self.share), max(1, round(right * self.share)))

    def before(self) -> Image.Image:
        """The region of the original."""
        return self._shown(self._before)[0]

    @torch.no_grad()
    def after(self, accumulated: Tensor) -> list[Image.Image]:
        """The region of each variation after a step whose sum of scales is `accumulated`, (B, C, h, w)."""
        generated = resized(self.editor.tokenizer.decode_each(accumulated.to(self._before.device)), self.size)
        feather = round(self.editor.config.feather * self.share)
        before = self._before[: len(generated)]  # one for all, or one for each
        return self._shown(composite(before, generated, self._hole, feather=feather))

    def _shown(self, images: Tensor) -> list[Image.Image]:
        return to_images(images[..., self._rows, self._columns])
