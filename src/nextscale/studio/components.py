"""Parts of the page: pictures and galleries to look at, images to upload, and fields.

An upload is a file that only `uploaded` reads, so that what is wrong with it is said in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.data.decode import read_image
from nextscale.studio.desk import Desk
from nextscale.studio.events import QUIET, errors_as_messages

MOST_PIXELS = 25_000_000
"""Pixels of an upload at most."""
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


def shown_gallery(title: str, *, columns: int, elem_id: str, titled: bool = True, **options: Any) -> gr.Gallery:
    """Finished images, with their title above unless it stands elsewhere."""
    buttons: Any = ["fullscreen"]
    if titled:
        gr.Markdown(title, elem_classes="title")
    style: dict[str, Any] = {"height": "auto", "object_fit": "contain", "elem_classes": "gallery"}
    return gr.Gallery(label=title, columns=columns, buttons=buttons, elem_id=elem_id, **style, **SHOWN, **options)


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


def seed_field(elem_id: str) -> tuple[gr.Number, gr.Checkbox]:
    """A seed, drawn anew each time unless it is kept, which typing one does."""
    with gr.Row():
        seed = gr.Number(0, label="Seed", min_width=120)
        lock = gr.Checkbox(False, label="Keep this seed", min_width=120, elem_id=elem_id)
    seed.input(None, None, lock, js="() => true", api_visibility="private")
    return seed, lock


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
