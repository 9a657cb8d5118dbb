"""Visual autoregressive modelling: tokenizer, next-scale transformer, sampler, training and evaluation."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nextscale.moved import MovedModules

if TYPE_CHECKING:
    from nextscale.pipeline import VARPipeline
    from nextscale.pyramid import ScaleSchedule, TokenPyramid

__version__ = "0.1.0"
__all__ = ["ScaleSchedule", "TokenPyramid", "VARPipeline", "__version__"]

_HOMES = {
    "VARPipeline": "nextscale.pipeline",
    "ScaleSchedule": "nextscale.pyramid",
    "TokenPyramid": "nextscale.pyramid",
}

sys.meta_path.insert(0, MovedModules())  # first: folders that an upgrade left behind are packages, too


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nextscale' has no attribute {name!r}")
