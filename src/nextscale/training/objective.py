"""What stage 2 asks of a model kind, and the answer of next-scale prediction.

Shapes: B batch, L tokens, V codebook entries, K scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.checkpoint import assigned
from nextscale.models.var import VAR, VARConfig, no_decay
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.tokenizer.vqvae import VQVAE


class Objective(Protocol):
    """One model kind's part of stage-2 training; the loop knows nothing else of it."""

    def build(self, *, gamma: float) -> nn.Module:
        """A model with initial weights drawn from torch's global generator; `gamma` scales its branches' rows."""
        ...

    def rebuilt(self, state: dict[str, Tensor]) -> nn.Module:
        """A model in evaluation mode that takes these whole weights."""
        ...

    def units(self, model: nn.Module) -> Sequence[nn.Module]:
        """Parts that FSDP gathers one at a time."""
        ...

    def no_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay skips a parameter."""
        ...

    def loss(self, model: nn.Module, tokens: TokenPyramid, classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss to minimise and named figures (scalars, or one value per scale) of a batch."""
        ...


class NextScaleObjective:
    """Cross-entropy of every token given all coarser scales and the class (paper, eq. 6)."""

    def __init__(self, config: VARConfig, tokenizer: VQVAE, *, label_smoothing: float = 0.0) -> None:
        self.config = config
        self.quantizer = tokenizer.quantizer
        self.label_smoothing = label_smoothing

    def build(self, *, gamma: float) -> VAR:
        model = VAR(self.config)
        model.initialise(gamma=gamma)
        return model

    def rebuilt(self, state: dict[str, Tensor]) -> VAR:
        return assigned(VAR, self.config, state)

    def units(self, model: nn.Module) -> Sequence[nn.Module]:
        assert isinstance(model, VAR)
        return list(model.blocks)

    def no_decay(self, name: str, parameter: Tensor) -> bool:
        return no_decay(name, parameter)

    def loss(self, model: nn.Module, tokens: TokenPyramid, classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over tokens, with the loss in nats and the accuracy of all scales, each, and the last."""
        logits_BLV = model(self.quantizer.teacher_forcing(tokens), classes)
        # V last and contiguous: (B L, V) float32, softmax in float32.
        flat, targets = logits_BLV.flatten(0, 1), tokens.packed.flatten()
        losses_BL = F.cross_entropy(flat, targets, reduction="none").view_as(tokens.packed)
        loss = losses_BL.mean()
        if self.label_smoothing:
            loss = F.cross_entropy(flat, targets, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            correct_BL = (logits_BLV.argmax(dim=-1) == tokens.packed).float()
        return loss, token_figures(losses_BL.detach(), correct_BL, tokens.schedule)


def token_figures(losses_BL: Tensor, correct_BL: Tensor, schedule: ScaleSchedule) -> dict[str, Tensor]:
    """Loss and accuracy over all tokens, per scale (K,), and at the last scale."""
    spans = [schedule.slice(scale) for scale in range(len(schedule))]
    figures: dict[str, Tensor] = {}
    for name, values_BL in (("loss", losses_BL), ("accuracy", correct_BL)):
        per_scale = torch.stack([values_BL[:, span].mean() for span in spans])
        figures |= {name: values_BL.mean(), f"{name}_per_scale": per_scale, f"{name}_last": per_scale[-1]}
    return figures


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
