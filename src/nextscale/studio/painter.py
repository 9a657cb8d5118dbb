"""A place where an image is uploaded and then painted over; what is painted is a mask."""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.studio.components import image_input, uploaded
from nextscale.studio.events import QUIET, errors_as_messages
from nextscale.studio.jobs import Update
from nextscale.studio.pictures import fitted
from nextscale.studio.theme import asset

CANVAS = 1024
"""Pixels of the longer side of what is painted on, at most: strokes are enlarged to the image's size."""
PNG = "data:image/png;base64,"
TOOLS = "".join(
    f'<button type="button" data-tool="{name.lower()}" aria-pressed="false">{name}</button>'
    for name in ("Brush", "Rectangle", "Eraser")
)
ACTS = "".join(
    f'<button type="button" data-act="{name.lower()}">{name}</button>' for name in ("Undo", "Invert", "Clear")
)
KEYS = "Arrow keys move, Space paints or sets a corner, Ctrl+Z undoes."
TEMPLATE = f"""
<div class="painter">
  <div class="tools" role="toolbar" aria-label="Mask">
    {TOOLS}
    <label>Size <input type="range" min="1" max="40" value="12"></label>
    {ACTS}
  </div>
  <div class="easel">
    <img alt="The image to edit" src="${{value.image}}" data-mask="${{value.start}}" data-version="${{value.version}}">
    <canvas tabindex="0" role="application" aria-label="Mask over the image. {KEYS}"></canvas>
    <div class="ring" hidden></div>
  </div>
  <p class="hint"><output></output>. What is painted is made anew. {KEYS}</p>
</div>
"""
"""Only the image's attributes change, so the canvas stays."""
NOTHING = {"image": "", "start": "", "version": "", "mask": ""}
"""Value of the canvas: an image, a mask to start with, a name of both, and what the page has made of the mask since.

Not properties of the component: gradio forgets those when it skips an update.
"""


def mask_of(value: dict[str, str] | None) -> Image.Image | None:
    """What was painted, opaque where it was; None for nothing. Raises ValueError for what is no picture."""
    if not (mask := mask_in(value)):
        return None
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(mask.removeprefix(PNG), validate=True)))
        if max(picture.size) > 2 * CANVAS:
            raise ValueError("too large")
        picture.load()
    except (OSError, ValueError) as error:
        raise ValueError("the mask cannot be read: paint it again") from error
    return picture


def mask_in(value: dict[str, str] | None) -> str:
    """What was painted, as the page has it."""
    return str((value or {}).get("mask") or "")


def inline_png(image: Image.Image) -> str:
    """A picture as an address that holds it."""
    image.save(stream := io.BytesIO(), "png", compress_level=1)
    return PNG + base64.b64encode(stream.getvalue()).decode()


@dataclass(frozen=True)
class PaintedUpload:
    """A place for an upload, in which a canvas with a small copy of the image then appears."""

    upload: gr.Column
    photo: gr.Image
    "Every event that outputs it sets its value: gradio makes a skipped one anew, without `image_input`'s rule."
    canvas: gr.HTML
    another: gr.Button
    back: gr.Button
    "Returns to the image before, where a result was taken over."
    source: gr.State
    "The file of the image on the canvas."
    past: gr.State
    "Images before it with their masks, while results are taken over."

    @property
    def parts(self) -> list[Any]:
        return [self.upload, self.photo, self.canvas, self.another, self.back, self.source, self.past]

    def opened(self, path: str, mask: str = "", past: list[tuple[str, str]] | None = None) -> Update:
        """The page with an image on the canvas. Raises ValueError for a file that is none."""
        image = uploaded(path)
        small = fitted(image, CANVAS)
        size = f"{image.width} x {image.height} pixels" + (", painted on at a smaller size" if small != image else "")
        shown = {"image": inline_png(small), "start": mask, "version": secrets.token_hex(4), "mask": mask}
        return {
            self.upload: gr.Column(visible=False),
            self.photo: None,
            self.canvas: gr.HTML(value=shown, visible=True),
            self.another: gr.Button(f"Another image (this one: {size})", visible=True),
            self.back: gr.Button(visible=bool(past)),
            self.source: path,
            self.past: past or [],
        }

    def continued(self, path: str, source: str | None, canvas: Any, past: list[tuple[str, str]]) -> Update:
        """The page with a result on the canvas, from which there is a way back."""
        return self.opened(path, past=[*past, (source, mask_in(canvas))] if source else past)

    def returned(self, past: list[tuple[str, str]]) -> Update:
        """The page with the image, and the mask, before a result was taken over."""
        *rest, (path, mask) = past
        return self.opened(path, mask, rest)

    def empty(self) -> Update:
        """The page before there is an image."""
        return {
            self.upload: gr.Column(visible=True),
            self.photo: None,
            self.canvas: gr.HTML(value=NOTHING, visible=False),
            self.another: gr.Button(visible=False),
            self.back: gr.Button(visible=False),
            self.source: None,
            self.past: [],
        }


def painted_upload() -> PaintedUpload:
    """Make it, where it stands on the page."""
    with gr.Column(elem_id="edit-canvas"):
        gr.Markdown("Image: paint over what should be made anew", elem_classes="title")
        with gr.Column() as upload:
            photo = image_input(label="Image", show_label=False, height=300, elem_id="edit-photo")
        acting: Any = {"html_template": TEMPLATE, "js_on_load": asset("painter.js"), "apply_default_css": False}
        canvas = gr.HTML(NOTHING, visible=False, elem_id="painter", **acting)
        with gr.Row():
            another = gr.Button("Another image", size="sm", visible=False, elem_id="another")
            back = gr.Button("Back to the image before", size="sm", visible=False, elem_id="back")
    place = PaintedUpload(upload, photo, canvas, another, back, gr.State(None), gr.State([]))

    def open_file(path: str | None) -> Any:
        return {photo: None} if path is None else place.opened(path)

    opening = errors_as_messages(open_file, place.empty)
    photo.change(opening, photo, place.parts, show_progress="minimal", api_visibility="private")
    another.click(place.empty, None, place.parts, **QUIET)
    returning: Callable[..., Any] = errors_as_messages(place.returned, lambda: {photo: None})
    back.click(returning, place.past, place.parts, **QUIET)
    return place
