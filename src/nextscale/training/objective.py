"""What stage 2 asks of a family of models, for one run of it.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.checkpoint import assigned
from nextscale.families.table import family_of
from nextscale.pyramid import TokenPyramid
from nextscale.tokenizer.vqvae import VQVAE


class Objective:
    """One architecture of a family, and the tokenizer whose tokens it learns."""

    def __init__(self, config: Any, tokenizer: VQVAE | None, *, label_smoothing: float = 0.0) -> None:
        self.config, self.tokenizer, self.label_smoothing = config, tokenizer, label_smoothing
        self.family = family_of(config)

    def build(self, *, gamma: float) -> Any:
        """A model with initial weights drawn from torch's global generator; `gamma` scales its branches' rows."""
        model = self.family.network(self.config)
        self.family.initialise(model, gamma=gamma)
        return model

    def rebuilt(self, state: dict[str, Tensor]) -> Any:
        """A model in evaluation mode that takes these whole weights."""
        return assigned(self.family.network, self.config, state)

    def units(self, model: nn.Module) -> Sequence[nn.Module]:
        """Parts that FSDP gathers one at a time."""
        return self.family.units(model)

    def no_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay skips a parameter."""
        return self.family.no_decay(name, parameter)

    def loss(
        self, model: nn.Module, batch: Any, classes: Tensor, *, player: str = ""
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss to minimise and named figures (scalars, or one value per scale) of a batch."""
        return self.family.loss(
            model,
            batch,
            classes,
            tokenizer=self.tokenizer,
            config=self.config,
            label_smoothing=self.label_smoothing,
            player=player,
        )


objective_of = Objective


def measured_latents(config: Any, tokenizer: VQVAE, tokens: Callable[[], TokenPyramid]) -> Any:
    """The architecture with what its family takes from some tokens."""
    return family_of(config).fitted(config, tokenizer, tokens)


def drop_classes(classes: Tensor, chance: Tensor, *, rate: float, unconditional: int) -> Tensor:
    """Classes (B,) with NO_CLASS and a share `rate` replaced by the unconditional class.

    `chance` (B,) uniform in [0, 1) decides, so that a sample's dropout never depends on the rank.
    """
    return classes.masked_fill((classes < 0) | (chance < rate), unconditional)


def mean_figures(figures: Sequence[dict[str, Tensor]], weights: Sequence[int]) -> dict[str, Tensor]:
    """Weighted mean of the figures of several batches."""
    share = torch.tensor(weights, dtype=torch.float32) / sum(weights)
    return {
        name: torch.tensordot(share, torch.stack([one[name].float().cpu() for one in figures]), dims=1)
        for name in figures[0]
    }
