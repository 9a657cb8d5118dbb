"""What was wrong is told on the page, and the page lives on as it was."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from typing import Any

import gradio as gr


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """An event whose ValueErrors are shown as a message; its outputs stay as they are.

    For events in gradio's queue: messages need it.
    """

    @functools.wraps(function)
    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except ValueError as error:
            tell(one_line(error))
            return gr.skip()

    return call


def tell(message: str) -> None:
    """A message at the corner of the page."""
    gr.Warning(html.escape(message), duration=10, title="Not done")


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
