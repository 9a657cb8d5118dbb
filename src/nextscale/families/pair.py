"""Two next-scale models as one: a large one draws the first scales, a small one those after them (CoDe).

arXiv:2411.17787. Both read the same tokens; the small one computes the keys and values of the first scales itself.
Shapes: B batch, L tokens of the sequence, l_1 tokens of the first scale, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from nextscale.conditions import Conditions
from nextscale.families.base import Stack, parts_of, whole_sequence
from nextscale.families.config import VARConfig
from nextscale.families.var import VAR, VARFamily, doubled_scales, further_passes, guided_first
from nextscale.nn import TextConfig
from nextscale.nn.graphs import GraphedModule
from nextscale.pyramid import ScaleSchedule, Size
from nextscale.sampling.next_scale import InTurn, Predictor

READING = ("encoder", "features", "tokens", "rows")
"""How a text becomes what a model takes of it."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """The architectures of two models in turn. Raises ValueError where they do not fit."""

    draft: VARConfig
    "Of the model of the first scales."
    refiner: VARConfig
    "Of the model of the scales after them."
    switch: int
    "Scales that the draft predicts, from the first: 0 to all."

    def __post_init__(self) -> None:
        for name in ("schedule", "codebook_size", "latent_channels", "classes"):
            one, other = (getattr(config, name) for config in (self.draft, self.refiner))
            if one != other:
                raise ValueError(f"two models in turn need the same {name}: one has {one}, the other {other}")
        one, other = (config.text and [getattr(config.text, name) for name in READING] for config in self.both)
        if one != other:
            raise ValueError("two models in turn need to read prompts in the same way, or both classes")
        if not 0 <= self.switch <= len(self.schedule):
            raise ValueError(f"switch must be between 0 and {len(self.schedule)}, all scales, got {self.switch}")

    @property
    def both(self) -> tuple[VARConfig, VARConfig]:
        """The draft's and the refiner's."""
        return self.draft, self.refiner

    @property
    def last(self) -> VARConfig:
        """That of the model which draws the last map."""
        return self.refiner if self.switch < len(self.schedule) else self.draft

    @property
    def drafted(self) -> int:
        """Positions that the draft predicts."""
        return self.schedule.ends[self.switch - 1] if self.switch else 0

    @property
    def refinable(self) -> bool:
        """Whether the last map may be drawn in several passes."""
        return self.last.refinable

    @property
    def sees_coarser(self) -> bool:
        """Whether a model keeps keys and values."""
        return any(config.sees_coarser for config in self.both)

    @property
    def schedule(self) -> ScaleSchedule:
        return self.draft.schedule

    @property
    def scales(self) -> tuple[Size, ...]:
        return self.draft.scales

    @property
    def codebook_size(self) -> int:
        return self.draft.codebook_size

    @property
    def latent_channels(self) -> int:
        return self.draft.latent_channels

    @property
    def classes(self) -> int:
        return self.draft.classes

    @property
    def unconditional(self) -> int:
        return self.draft.unconditional

    @property
    def text(self) -> TextConfig | None:
        return self.draft.text


class ModelPair(GraphedModule):
    """Two next-scale models in turn. Each has a module of its own, which other pipelines may share."""

    inputs = staticmethod(VAR.inputs)
    switch: Tensor

    def __init__(self, config: PairConfig, draft: VAR | None = None, refiner: VAR | None = None) -> None:
        """Without models, makes new ones."""
        super().__init__()
        self.config, self.schedule = config, config.schedule
        self.draft = VAR(config.draft) if draft is None else draft
        self.refiner = VAR(config.refiner) if refiner is None else refiner
        # A part of what identifies the weights: the same two models make other images at another scale.
        self.register_buffer("switch", torch.tensor(config.switch, device="cpu"), persistent=False)

    @classmethod
    def of(cls, draft: VAR, refiner: VAR, switch: int) -> Self:
        """Two models that there are already. Raises ValueError where they do not fit."""
        return cls(PairConfig(draft=draft.config, refiner=refiner.config, switch=switch), draft, refiner).eval()

    @property
    def models(self) -> tuple[VAR, VAR]:
        """Both."""
        return self.draft, self.refiner

    def at(self, scale: int) -> VAR:
        """The model that draws a scale."""
        return self.draft if scale < self.config.switch else self.refiner

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of both."""
        return [*self.draft.blocks, *self.refiner.blocks]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.draft.device

    @property
    def dtype(self) -> torch.dtype:
        """What the blocks' matrices are multiplied in."""
        return self.draft.dtype

    def forward(self, latents: Tensor, classes: Tensor | Conditions) -> Tensor:
        """Teacher forcing, each scale by its model: (B, L - l_1, latent_channels), (B,) -> (B, L, V) float32."""
        drafted = self.config.drafted
        logits = self.draft(latents, classes)[:, :drafted], self.refiner(latents, classes)[:, drafted:]
        return torch.cat(logits, dim=1)

    def predictor(self, conditions: Conditions, strengths: Sequence[float]) -> InTurn:
        """What predicts a batch scale by scale, with the guidance at each scale."""
        switch = self.config.switch
        first = partial(Predictor, self.draft, conditions, strengths[:switch])
        second = partial(Predictor, self.refiner, conditions, [0.0] * switch + list(strengths[switch:]))
        return InTurn(first, second, switch)


class PairFamily(VARFamily):
    """Next-scale prediction by two models in turn."""

    kind = "pair"
    title = "next-scale prediction by two models in turn"
    config: Any = PairConfig
    network: Any = ModelPair

    def presets(self) -> Mapping[str, Any]:
        """None: a pair is made of finished models."""
        return {}

    def compile(self, model: Any, **options: Any) -> None:
        """Raises ValueError for int8."""
        for one in model.models:
            super().compile(one, **options)

    def stacks(self, config: Any, *, steps: int = 0, guided_scales: int = 0) -> Sequence[Stack]:
        """The draft's scales; then, in the first of the refiner's passes, those again; then the refiner's."""
        switch, scales = config.switch, len(config.scales)
        guided = doubled_scales(scales, guided_scales)
        stacks = []
        if switch:
            drafted = parts_of(whole_sequence(config.draft), 0, switch)
            stacks += guided_first(drafted, doubled_scales(scales, min(guided, switch)) if guided else 0)
        if switch < scales:
            refiner = whole_sequence(config.refiner)
            if switch and config.refiner.sees_coarser:
                again = replace(parts_of(refiner, 0, switch), head_positions=0, head_outputs=0, conditions=0)
                stacks.append(replace(again, guided=guided > switch, joined=True))
            refined = replace(parts_of(refiner, switch, scales), conditions=1)
            stacks += guided_first(refined, max(0, guided - switch))
        return [*stacks, *further_passes(config.last, steps, guided=guided == scales)]

    def cache_bytes(self, config: Any, dtype: torch.dtype) -> int:
        """Those of the model that keeps more: one's are given up before the other's are made."""
        own, others = (super(PairFamily, self).cache_bytes(one, dtype) for one in (config.draft, config.refiner))
        return max(own * config.drafted // config.schedule.length, others if config.last is config.refiner else 0)


FAMILY = PairFamily()
