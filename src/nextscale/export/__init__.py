"""Models for other runtimes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextscale.export.onnx import export_onnx

__all__ = ["export_onnx"]


def __getattr__(name: str) -> Any:  # settings are read without torch
    if name in __all__:
        return getattr(import_module("nextscale.export.onnx"), name)
    raise AttributeError(f"module 'nextscale.export' has no attribute {name!r}")
