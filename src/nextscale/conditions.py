"""What images are asked to show: the object that models read and samplers hand through.

Shapes: B images, C width of a model, T tokens of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Conditions(Protocol):
    """What each image of a batch is asked to show; a model makes start tokens and modulation of it.

    Samplers use only `len`, slices and `with_unconditional`: another kind of condition needs no other sampler.
    """

    def __len__(self) -> int:
        """Number of images, B."""
        ...

    def __getitem__(self, rows: slice) -> Conditions:
        """The conditions of some images."""
        ...

    def with_unconditional(self) -> Conditions:
        """These B conditions, then B unconditional ones."""
        ...

    def vectors(self, model: Any) -> Tensor:
        """The start token of each image, which also modulates the blocks, (B, C); `model` holds the embeddings."""
        ...

    def context(self, model: Any) -> tuple[Tensor, Tensor] | None:
        """Tokens (B, T, C) for the blocks' `context`, and their mask (B, T) bool; None leaves the argument out."""
        ...


@dataclass(frozen=True)
class ClassLabels:
    """Classes by id."""

    ids: Tensor
    "(B,) int64, the unconditional id included."
    unconditional: int
    "Id of the unconditional class."

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> ClassLabels:
        return ClassLabels(self.ids[rows], self.unconditional)

    def with_unconditional(self) -> ClassLabels:
        return ClassLabels(torch.cat([self.ids, torch.full_like(self.ids, self.unconditional)]), self.unconditional)

    def vectors(self, model: Any) -> Tensor:
        return model.class_embedding(self.ids)

    def context(self, model: Any) -> None:
        return None


def as_conditions(classes: Tensor | Conditions, unconditional: int) -> Conditions:
    """Conditions, or class ids (B,) as conditions."""
    return ClassLabels(classes, unconditional) if isinstance(classes, Tensor) else classes
