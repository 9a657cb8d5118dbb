"""Image inputs that hand over the file itself, so that it is read in one place and what is wrong with it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.data.decode import read_image
from nextscale.studio.errors import one_line, tell

MOST_PIXELS = 25_000_000
"""Pixels of an upload at most."""


def image_input(**options: Any) -> gr.Image:
    """An image to be uploaded or pasted; its value is the path of the file, which nobody has looked into.

    Not a subclass: gradio writes files beside the source of those.
    """
    component = gr.Image(
        type="filepath", image_mode=None, sources=["upload", "clipboard"], buttons=["fullscreen"], **options
    )
    component.preprocess = lambda payload: None if payload is None else payload.path  # pyright: ignore
    return component


def tell_unreadable(component: gr.Image) -> None:
    """Have a file that cannot be read be told when it comes, and taken out again."""

    def look(path: str | None) -> Any:
        try:
            if path is not None:
                uploaded(path)
        except ValueError as error:
            tell(one_line(error))
            return None
        return gr.skip()

    component.change(look, component, component, show_progress="hidden", api_visibility="private")


def uploaded(source: str | Image.Image) -> Image.Image:
    """An upload as RGB. Raises ValueError for one that cannot be read or is too large."""
    name = Path(source).name if isinstance(source, str) else "image"
    return read_image(source, name=name, most_pixels=MOST_PIXELS)
