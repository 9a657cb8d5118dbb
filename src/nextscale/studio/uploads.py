"""Image inputs that tell on the page when a file cannot be read."""

from __future__ import annotations

from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

Input = TypeVar("Input", bound=Component)
MESSAGE = "this file cannot be read as an image; upload a PNG, JPEG or WebP"


def checked(component: Input) -> Input:
    """The component; what it cannot read is told on the page instead of in the log.

    Not a subclass: gradio writes files beside the source of those.
    """
    read = component.preprocess

    def preprocess(payload: Any) -> Any:
        try:
            return read(payload)
        except gr.Error:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds on damaged files
            raise gr.Error(MESSAGE, duration=8, print_exception=False) from error

    component.preprocess = preprocess
    return component
