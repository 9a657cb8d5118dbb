"""Where an image is opened and painted over: the page has a small copy, the server keeps the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from nextscale.studio.errors import one_line, tell
from nextscale.studio.jobs import Update
from nextscale.studio.pictures import fitted
from nextscale.studio.uploads import image_input, uploaded

CANVAS = 1024
"""Pixels of the longer side of what is painted on, at most: strokes are enlarged to the image's size."""


@dataclass(frozen=True)
class Easel:
    """A place for uploads that gives way to a canvas."""

    photo: gr.Image
    canvas: gr.ImageEditor
    another: gr.Button
    source: gr.State
    "The file of the image on the canvas."

    @property
    def parts(self) -> list[Any]:
        return [self.photo, self.canvas, self.another, self.source]

    def opened(self, path: str) -> Update:
        """The page with an image on the canvas. Raises ValueError for a file that is none."""
        image = uploaded(path)
        small = fitted(image, CANVAS)
        size = f"{image.width} x {image.height} pixels" + (", painted on at a smaller size" if small != image else "")
        return {
            self.photo: gr.Image(value=None, visible=False),
            self.canvas: gr.ImageEditor(
                value={"background": small, "layers": [], "composite": small},
                visible=True,
                brush=brush(max(4, max(small.size) // 12)),
            ),
            self.another: gr.Button(f"Another image (this one: {size})", visible=True),
            self.source: path,
        }

    def empty(self) -> Update:
        """The page before an image is there."""
        return {
            self.photo: gr.Image(value=None, visible=True), self.canvas: gr.ImageEditor(value=None, visible=False),
            self.another: gr.Button(visible=False), self.source: None,
        }  # fmt: skip


def brush(size: int) -> gr.Brush:
    """One colour: what is painted is a mask."""
    return gr.Brush(colors=["#ff3366"], color_mode="fixed", default_size=size)


def easel() -> Easel:
    """The place, where it stands on the page."""
    with gr.Column(elem_id="edit-canvas"):
        gr.Markdown("Image: paint over what should be made anew", elem_classes="title")
        photo = image_input(label="Image", show_label=False, height=300, elem_id="edit-photo")
        canvas = gr.ImageEditor(
            label="Image", show_label=False, type="pil", image_mode="RGBA", height=420, visible=False, sources=(),
            transforms=(), layers=False, format="png", buttons=["fullscreen"],
            brush=brush(12),
        )  # fmt: skip
        another = gr.Button("Another image", size="sm", visible=False)
    place = Easel(photo, canvas, another, gr.State(None))

    def open_file(path: str | None) -> Any:
        if path is None:
            return gr.skip()
        try:
            return place.opened(path)
        except ValueError as error:
            tell(one_line(error))
            return place.empty()

    photo.change(open_file, photo, place.parts, show_progress="minimal", api_visibility="private")
    gr.on(
        [another.click, canvas.clear], place.empty, None, place.parts, show_progress="hidden", api_visibility="private"
    )
    return place
