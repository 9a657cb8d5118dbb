"""Image inputs that tell on the page when a file cannot be read."""

from __future__ import annotations

from typing import Any

import gradio as gr


def unreadable() -> gr.Error:
    return gr.Error(
        "this file cannot be read as an image; upload a PNG, JPEG or WebP", duration=8, print_exception=False
    )


class UploadedImage(gr.Image):
    """gradio's image input."""

    is_template = True  # drawn as its parent

    def preprocess(self, payload: Any) -> Any:
        try:
            return super().preprocess(payload)
        except gr.Error:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds on damaged files
            raise unreadable() from error


class PaintedImage(gr.ImageEditor):
    """gradio's image editor."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        try:
            return super().preprocess(payload)
        except gr.Error:
            raise
        except Exception as error:
            raise unreadable() from error
