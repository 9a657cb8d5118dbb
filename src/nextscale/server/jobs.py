"""What the HTTP side and the model's side hand each other: one image to make, and its stages.

Shapes: (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nextscale.editing.config import EditConfig
from nextscale.pyramid import Size
from nextscale.sampling.next_scale import SamplingConfig


@dataclass(frozen=True, eq=False)
class Edit:
    """An image and what of it is to be made anew."""

    image: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) float32, 1 where it is regenerated
    config: EditConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One image to make."""

    seed: int
    label: int | str | None
    "Class id, None for no class, or `auto` (edits)."
    sampling: SamplingConfig
    edit: Edit | None = None
    soften: bool = False
    "Whether the guidance of an edit counts by the squared share that is made anew."
    previews: frozenset[int] = frozenset()
    "Scales after which the image is wanted as it stands."

    @property
    def key(self) -> object:
        """Jobs of equal keys are worked on together. Edits stay alone: hooks let an image depend on its batch."""
        return self.sampling if self.edit is None else self


@dataclass(frozen=True, eq=False)
class Stage:
    """An image as it stands after a scale; the last is the result."""

    scale: int
    image: np.ndarray  # (H, W, 3) uint8
    final: bool
    label: int | None
    together: int
    "Images that were made at once."


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the HTTP side knows of the model that is served."""

    name: str
    title: str
    class_names: tuple[str, ...]
    image_size: Size
    scales: int
    "Steps that can be shown; 0 for kinds of models without scales."
    defaults: SamplingConfig
    precision: str
    parameters: int
    edits: bool = True


class Backend(Protocol):
    """Where images are made."""

    async def card(self) -> ModelCard: ...

    def make(self, job: Job) -> AsyncIterator[Stage]:
        """The stages that the job asks for, the final one last."""
        ...
