"""Parts of the page: pictures and galleries to look at, and images to upload and to paint over.

An upload is a file that only `uploaded` reads, so that what is wrong with it is said in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.data.decode import read_image
from nextscale.studio.desk import Desk
from nextscale.studio.events import QUIET, errors_as_messages
from nextscale.studio.jobs import Update
from nextscale.studio.pictures import fitted

MOST_PIXELS = 25_000_000
"""Pixels of an upload at most."""
CANVAS = 1024
"""Pixels of the longer side of what is painted on, at most: strokes are enlarged to the image's size."""
MOST_CHARACTERS = 1000
"""Characters of a prompt; a model reads a few words of it."""
SHOWN: dict[str, Any] = {"show_label": False, "interactive": False, "format": "png"}
"""Options of components that only show pictures."""


def shown_picture(
    title: str, *, wide: bool = False, buttons: Sequence[Any] = ("fullscreen",), **options: Any
) -> gr.Image:
    """A picture to look at; a wide one takes all the room."""
    gr.Markdown(title, elem_classes=["title", "beside"] if buttons else "title")
    style = ["shown", "wide"] if wide else "shown"
    return gr.Image(label=title, type="pil", buttons=[*buttons], elem_classes=style, **SHOWN, **options)


def shown_gallery(title: str, *, columns: int, elem_id: str, titled: bool = True) -> gr.Gallery:
    """Finished images, with their title above unless it stands elsewhere."""
    buttons: Any = ["fullscreen"]
    if titled:
        gr.Markdown(title, elem_classes="title")
    style: dict[str, Any] = {"height": "auto", "object_fit": "contain", "elem_classes": "gallery"}
    return gr.Gallery(label=title, columns=columns, buttons=buttons, elem_id=elem_id, **style, **SHOWN)


def image_input(**options: Any) -> gr.Image:
    """An image to be uploaded or pasted. Its value is the path of the file, which is not read here.

    Not a subclass: gradio writes files beside the source of those.
    """
    sources: Any = ["upload", "clipboard"]
    component = gr.Image(type="filepath", image_mode=None, sources=sources, buttons=["fullscreen"], **options)
    component.preprocess = lambda payload: None if payload is None else payload.path  # pyright: ignore
    return component


def refuse_unreadable(component: gr.Image) -> None:
    """Have an uploaded file that cannot be read be removed, with a message."""

    def look(path: str | None) -> Any:
        if path is not None:
            uploaded(path)
        return gr.skip()

    component.change(errors_as_messages(look, lambda: None), component, component, **QUIET)


def uploaded(source: str | Image.Image) -> Image.Image:
    """An upload as RGB. Raises ValueError for one that cannot be read or is too large."""
    name = Path(source).name if isinstance(source, str) else "image"
    return read_image(source, name=name, most_pixels=MOST_PIXELS)


@dataclass(frozen=True)
class PaintedUpload:
    """A place for an upload, in which a canvas with a small copy of the image then appears."""

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
        painted: Any = {"background": small, "layers": [], "composite": small}
        return {
            self.photo: gr.Image(value=None, visible=False),
            self.canvas: gr.ImageEditor(value=painted, visible=True, brush=brush(max(4, max(small.size) // 12))),
            self.another: gr.Button(f"Another image (this one: {size})", visible=True),
            self.source: path,
        }

    def empty(self) -> Update:
        """The page before there is an image."""
        return {
            self.photo: gr.Image(value=None, visible=True),
            self.canvas: gr.ImageEditor(value=None, visible=False),
            self.another: gr.Button(visible=False),
            self.source: None,
        }


def brush(size: int) -> gr.Brush:
    """One colour, through which the image is seen: what is painted is a mask."""
    return gr.Brush(colors=[("#ff3366", 0.5)], color_mode="fixed", default_size=size)


def painted_upload() -> PaintedUpload:
    """Make it, where it stands on the page."""
    only_a_brush: dict[str, Any] = {"sources": (), "transforms": (), "layers": False, "brush": brush(12)}
    look: dict[str, Any] = {"height": 420, "visible": False, "buttons": ["fullscreen"], "show_label": False}
    with gr.Column(elem_id="edit-canvas"):
        gr.Markdown("Image: paint over what should be made anew", elem_classes="title")
        photo = image_input(label="Image", show_label=False, height=300, elem_id="edit-photo")
        canvas = gr.ImageEditor(label="Image", type="pil", image_mode="RGBA", format="png", **only_a_brush, **look)
        another = gr.Button("Another image", size="sm", visible=False)
    place = PaintedUpload(photo, canvas, another, gr.State(None))

    def open_file(path: str | None) -> Any:
        return gr.skip() if path is None else place.opened(path)

    opening = errors_as_messages(open_file, place.empty)
    photo.change(opening, photo, place.parts, show_progress="minimal", api_visibility="private")
    gr.on([another.click, canvas.clear], place.empty, None, place.parts, **QUIET)
    return place


def wanted_field(desk: Desk, *, also: Sequence[str] = (), value: str = "", info: str = "Type to search.") -> Any:
    """What images are to show: a class, or a prompt with examples to click on; `also` are further choices of a class.

    Without a value it has the first class, or the first example.
    """
    if not desk.pipeline.reads_prompts:
        choices = [*also, *desk.class_choices]
        return gr.Dropdown(choices, value=value or choices[0], label="Class", info=info)
    examples = list(desk.pipeline.config.prompts or ())
    first = "" if also else next(iter(examples), "")
    hint = "Say what to show; empty is anything."
    box = gr.Textbox(first, label="Prompt", info=hint, max_length=MOST_CHARACTERS, max_lines=3)
    if examples:
        gr.Examples([[example] for example in examples], box, label="Examples", examples_per_page=len(examples))
    return box
