"""The models that a studio offers, and how one is opened.

Imports no gradio.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nextscale.catalogue import BUNDLED, models_in
from nextscale.pipeline import VARPipeline

RIVALS = {"demo": "demo-raster", "demo-raster": "demo"}
"""The other bundled model, for comparison."""


@dataclass(frozen=True)
class Shelf:
    """Models by name, the one that others are compared with, and what they compute in."""

    models: dict[str, str]
    "What opens each: a name, a folder or a file."
    rival: str = ""
    "Stands beside all models; where it is empty, the other bundled one beside a bundled one."
    device: str = "auto"
    precision: str = "auto"

    @classmethod
    def of(cls, model: str, folder: str = "", **settings: Any) -> Shelf:
        """A model, the bundled ones, and those in a folder. Raises ValueError for a folder without."""
        models = {name: name for name in dict.fromkeys((model, *BUNDLED))}
        if folder:
            place, own = Path(folder), Path(model).resolve()
            for name, found in models_in(place).items():
                if Path(found).resolve() != own:
                    models.setdefault(str(Path(place.resolve().name, name)), found)
        return cls(models, **settings)

    def open(self, model: str, rival: VARPipeline | None = None) -> tuple[VARPipeline, VARPipeline | None]:
        """A model, and the one it is compared with, unless that is open. Raises ValueError in one line."""
        how = {"device": self.device, "dtype": self.precision}
        other = self.rival or RIVALS.get(model, "")
        pipeline = VARPipeline.from_pretrained(model, **how)
        if rival is None and other:
            rival = VARPipeline.from_pretrained(other, **how)
        return pipeline, rival


def release_memory() -> None:
    """Give back what models held that are no more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Opening:
    """In place of a model that is being opened: whatever is asked of it raises ValueError."""

    def __init__(self, model: str) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"{self._model} is being opened; try again in a moment")
