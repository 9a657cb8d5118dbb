"""Pictures on the page, with their titles above instead of over them."""

from __future__ import annotations

from typing import Any

import gradio as gr


def shown_picture(title: str, **options: Any) -> gr.Image:
    """A picture that is looked at only."""
    gr.Markdown(title, elem_classes="title")
    return gr.Image(label=title, show_label=False, type="pil", interactive=False, format="png", **options)


def shown_gallery(title: str, *, columns: int, elem_id: str) -> gr.Gallery:
    """Finished images, to look at and to download."""
    gr.Markdown(title, elem_classes="title")
    return gr.Gallery(
        label=title, show_label=False, columns=columns, height="auto", format="png", object_fit="contain",
        buttons=["download", "fullscreen"], interactive=False, elem_id=elem_id, elem_classes="gallery",
    )  # fmt: skip
