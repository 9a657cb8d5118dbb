"""Pictures on the page: never larger than they are shown, with their titles above instead of over them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.pictures import grid

PREVIEW = 512
"""Pixels of the longer side of a picture that is shown while work goes on, at most."""
FINISHED = 1024
"""Pixels of the longer side of a picture of finished images, at most."""
STRIP_ROWS, STRIP_COLUMNS = 8, 16
"""Images whose steps are shown one by one, and steps that are shown of each, at most."""
GAP = 4
EXACT = 2**16
"""Pixels up to which a picture is a PNG: above, JPEG is several times quicker and smaller."""


def fitted(image: Image.Image, most: int = PREVIEW) -> Image.Image:
    """An image whose longer side has at most `most` pixels; the same where it has no more. The page enlarges it."""
    if max(image.size) <= most:
        return image
    share = most / max(image.size)
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def clickable(image: Image.Image) -> Image.Image:
    """An image at the size it is shown at: gradio finds the place of a click only where nothing was enlarged."""
    share = PREVIEW / max(image.size)
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    return image.resize(size, Image.Resampling.BICUBIC)


def strip(frames: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Steps as columns, images as rows, all of it at most `PREVIEW` pixels wide and high.

    Of many steps some are taken, evenly and with the last; of many images the first.
    """
    columns = min(len(frames), STRIP_COLUMNS)
    chosen = [frames[(number + 1) * len(frames) // columns - 1][:STRIP_ROWS] for number in range(columns)]
    rows = list(zip(*chosen, strict=True))
    cell = max(1, (PREVIEW + GAP) // max(len(rows), columns) - GAP)
    return grid([fitted(image, cell) for row in rows for image in row], columns=columns, gap=GAP)


def encoded(image: Image.Image, folder: Path) -> Path:
    """The picture as a new file."""
    folder.mkdir(parents=True, exist_ok=True)
    exact = image.width * image.height <= EXACT
    path = folder / f"{secrets.token_hex(8)}.{'png' if exact else 'jpg'}"
    if exact:
        image.save(path, compress_level=1)
    else:
        image.save(path, quality=90, subsampling=0)
    return path


def shown_picture(
    title: str, *, wide: bool = False, buttons: Sequence[Any] = ("fullscreen",), **options: Any
) -> gr.Image:
    """A picture that is looked at only; a wide one takes all the room."""
    gr.Markdown(title, elem_classes=["title", "beside"] if buttons else "title")
    return gr.Image(
        label=title, show_label=False, type="pil", interactive=False, format="png", buttons=[*buttons],
        elem_classes=["shown", "wide"] if wide else "shown", **options,
    )  # fmt: skip


def shown_gallery(title: str, *, columns: int, elem_id: str, buttons: Sequence[Any] = ("fullscreen",)) -> gr.Gallery:
    """Finished images; `download` among the buttons where they are shown as they are."""
    gr.Markdown(title, elem_classes="title")
    return gr.Gallery(
        label=title, show_label=False, columns=columns, height="auto", format="png", object_fit="contain",
        buttons=[*buttons], interactive=False, elem_id=elem_id, elem_classes="gallery",
    )  # fmt: skip
