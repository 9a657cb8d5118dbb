"""What images are asked to show: the object that models read and samplers hand through.

Shapes: B images, C width of a model, T tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that differs between images, (B, ...) each."""
        return (self.ids,)

    def of(self, ids: Tensor) -> ClassLabels:
        """Other images' conditions of this kind, from their `tensors`."""
        return ClassLabels(ids, self.unconditional)


@dataclass(frozen=True)
class TextPrompts:
    """Prompts as their encoder's tokens, and what guidance leads away from: negative prompts, or empty ones."""

    tokens: Tensor
    "Rows of the table of words, (B, T, N) int64, or a frozen encoder's features (B, T, F)."
    mask: Tensor
    "Which of them are no padding, (B, T) bool."
    negative_tokens: Tensor
    negative_mask: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, rows: slice | Tensor) -> TextPrompts:
        return TextPrompts(*(each[rows] for each in self.tensors))

    def with_unconditional(self) -> TextPrompts:
        negative = self.negative_tokens, self.negative_mask
        pairs = zip(self.tensors, (*negative, *negative), strict=True)
        return TextPrompts(*(torch.cat(pair) for pair in pairs))

    def without_negative(self) -> TextPrompts:
        """The same prompts beside empty ones, which differ from all others in their mask alone."""
        return TextPrompts(self.tokens, self.mask, torch.zeros_like(self.tokens), torch.zeros_like(self.mask))

    def read(self, model: Any) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """`vectors` and `context`, which the encoder makes together."""
        vectors, tokens, mask = model.text(self.tokens, self.mask)
        return vectors, (tokens, mask) if model.config.text.every else None

    def vectors(self, model: Any) -> Tensor:
        return self.read(model)[0]

    def context(self, model: Any) -> tuple[Tensor, Tensor] | None:
        return self.read(model)[1]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that differs between images, (B, ...) each."""
        return self.tokens, self.mask, self.negative_tokens, self.negative_mask

    def of(self, *tensors: Tensor) -> TextPrompts:
        """Other images' conditions of this kind, from their `tensors`."""
        return TextPrompts(*tensors)

    def to(self, device: torch.device) -> TextPrompts:
        """The same on a device."""
        return TextPrompts(*(each.to(device) for each in self.tensors))


def vectors_and_context(conditions: Conditions, model: Any) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Vectors and context of conditions, together where one encoder makes both.

    Raises ValueError for classes where a model reads prompts, and the other way round.
    """
    if isinstance(conditions, TextPrompts) != reads_prompts(model.config):
        told, other = ("prompts", "classes") if reads_prompts(model.config) else ("classes", "prompts")
        raise ValueError(f"this model is conditioned on {told}, not on {other}")
    if isinstance(conditions, TextPrompts):
        return conditions.read(model)
    return conditions.vectors(model), conditions.context(model)


def as_conditions(classes: Tensor | Conditions, unconditional: int) -> Conditions:
    """Conditions, or class ids (B,) as conditions."""
    return ClassLabels(classes, unconditional) if isinstance(classes, Tensor) else classes


def reads_prompts(architecture: Any) -> bool:
    """Whether a model is conditioned on prompts, not on classes."""
    return getattr(architecture, "text", None) is not None


@dataclass(frozen=True)
class Choices:
    """What the images of a call may show, by number: classes by their ids, or prompts in the order given."""

    numbers: list[int]
    "Of what was asked for, one after the other."
    prompts: tuple[str, ...] | None = None
    "None for classes."
    table: TextPrompts | None = None
    "Conditions of all prompts."

    def conditions(self, numbers: Sequence[int], device: torch.device) -> Tensor | TextPrompts:
        """Class ids (B,), or the conditions of prompts."""
        chosen = torch.tensor(list(numbers), dtype=torch.int64, device=device)
        return chosen if self.table is None else self.table[chosen]


ANY_CLASS = Choices([])
"""Any class, by its id."""
