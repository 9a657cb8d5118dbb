"""What was wrong is told on the page, and the page lives on as it was."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Refused:
    """In place of a value that a component did not take."""

    message: str


def lenient(component: Any) -> None:
    """Have a component hand over what it does not take as `Refused`: raised, it would paint over all outputs."""
    read = component.preprocess

    def preprocess(payload: Any) -> Any:
        try:
            return read(payload)
        except gr.Error as error:
            return Refused(f"{component.label}: {error.message}".rstrip("."))
        except Exception:  # an empty slider, a damaged picture
            return Refused(f"{component.label}: this value cannot be used")

    component.preprocess = preprocess


def tell(message: str) -> None:
    """A message at the corner of the page."""
    gr.Warning(html.escape(message), duration=10, title="Not done")


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
