"""What was wrong is told on the page, and the page lives on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """An event whose ValueErrors are shown as a message; generators stay generators."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*values: Any) -> Iterator[Any]:
            try:
                yield from function(*values)
            except ValueError as error:
                raise gr.Error(one_line(error), duration=8, print_exception=False) from error

        return stream

    @functools.wraps(function)
    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except ValueError as error:
            raise gr.Error(one_line(error), duration=8, print_exception=False) from error

    return call


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
