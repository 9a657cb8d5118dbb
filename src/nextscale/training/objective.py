"""What stage 2 asks of a model kind, and the answers of each.

Shapes: B batch, L tokens, V codebook entries, K scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.checkpoint import assigned
from nextscale.families.dit import DiTConfig
from nextscale.families.maskgit import MaskGITConfig
from nextscale.families.table import Model, kind_of
from nextscale.nn.transformer import TransformerConfig, no_decay
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.diffusion import noise_scheduler
from nextscale.sampling.teacher_forcing import teacher_inputs
from nextscale.tokenizer.residual import flatten_map
from nextscale.tokenizer.vqvae import VQVAE

Architecture = TypeVar("Architecture", bound=TransformerConfig)


class Objective(Protocol):
    """One model kind's part of stage-2 training; the loop knows nothing else of it."""

    def build(self, *, gamma: float) -> Model:
        """A model with initial weights drawn from torch's global generator; `gamma` scales its branches' rows."""
        ...

    def rebuilt(self, state: dict[str, Tensor]) -> Model:
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


class AutoregressiveObjective:
    """Cross-entropy of every token given those before it, or all coarser scales, and the class (paper, eq. 6)."""

    def __init__(self, config: TransformerConfig, tokenizer: VQVAE, *, label_smoothing: float = 0.0) -> None:
        self.config = config
        self.kind = kind_of(config)
        self.quantizer = tokenizer.quantizer
        self.label_smoothing = label_smoothing

    def build(self, *, gamma: float) -> Model:
        model = self.kind.model(self.config)  # pyright: ignore[reportArgumentType]
        model.initialise(gamma=gamma)
        return model

    def rebuilt(self, state: dict[str, Tensor]) -> Model:
        return assigned(self.kind.model, self.config, state)

    def units(self, model: nn.Module) -> Sequence[nn.Module]:
        return list(model.blocks)  # pyright: ignore[reportArgumentType]

    def no_decay(self, name: str, parameter: Tensor) -> bool:
        return no_decay(name, parameter)

    def loss(self, model: nn.Module, tokens: TokenPyramid, classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over tokens, with the loss in nats and the accuracy of all scales, each, and the last."""
        logits_BLV = model(teacher_inputs(self.config, self.quantizer, tokens), classes)
        # V last and contiguous: (B L, V) float32, softmax in float32.
        flat, targets = logits_BLV.flatten(0, 1), tokens.packed.flatten()
        losses_BL = F.cross_entropy(flat, targets, reduction="none").view_as(tokens.packed)
        loss = losses_BL.mean()
        if self.label_smoothing:
            loss = F.cross_entropy(flat, targets, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            correct_BL = (logits_BLV.argmax(dim=-1) == tokens.packed).float()
        return loss, token_figures(losses_BL.detach(), correct_BL, tokens.schedule)


class MaskedObjective(AutoregressiveObjective):
    """Cross-entropy of masked tokens given the others, a cosine of a uniform number of them masked (MaskGIT, eq. 1)."""

    def loss(self, model: nn.Module, tokens: TokenPyramid, classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the masked tokens; figures are of those too."""
        packed = tokens.packed
        share = torch.cos(torch.rand(len(packed), 1, device=packed.device) * (math.pi / 2))
        count = (share * packed.shape[1]).ceil().clamp_min(1)
        masked = torch.rand(packed.shape, device=packed.device).argsort(dim=1).argsort(dim=1) < count
        with torch.no_grad():
            latents = flatten_map(self.quantizer.lookup(tokens[0]))
        logits_BLV = model(latents, masked, classes)
        losses = F.cross_entropy(logits_BLV[masked], packed[masked], label_smoothing=self.label_smoothing)
        with torch.no_grad():
            plain = F.cross_entropy(logits_BLV[masked], packed[masked])
            right = (logits_BLV[masked].argmax(dim=-1) == packed[masked]).float().mean()
        figures = {"loss": plain, "accuracy": right}
        return losses, figures | {f"{name}_last": value for name, value in figures.items()}


class DiffusionObjective(AutoregressiveObjective):
    """Squared error of the noise in noisy latents at uniform times (DDPM, eq. 14); latents as decoders read them."""

    config: DiTConfig

    def __init__(self, config: DiTConfig, tokenizer: VQVAE, *, label_smoothing: float = 0.0) -> None:
        super().__init__(config, tokenizer)
        self.scheduler = noise_scheduler(config)

    def build(self, *, gamma: float) -> Model:
        """AdaLN-zero: branches and head start at nothing, whatever `gamma`."""
        return super().build(gamma=0.0)

    def loss(self, model: nn.Module, tokens: TokenPyramid, classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the noise, whose variance is 1."""
        with torch.no_grad():
            latents = self.quantizer.decode(tokens) / self.config.latent_scale
            noise = torch.randn_like(latents)
            times = torch.randint(self.config.noise_levels, (len(latents),), device=latents.device)
            noisy = self.scheduler.add_noise(latents, noise, times)
        loss = F.mse_loss(model(noisy, times, classes), noise)
        return loss, {"loss": loss.detach()}


def objective_of(config: TransformerConfig, tokenizer: VQVAE, *, label_smoothing: float = 0.0) -> Objective:
    """The objective of a kind of model."""
    kinds = {MaskGITConfig: MaskedObjective, DiTConfig: DiffusionObjective}
    chosen: Any = kinds.get(type(config), AutoregressiveObjective)
    return chosen(config, tokenizer, label_smoothing=label_smoothing)


@torch.no_grad()
def measured_latents(config: Architecture, tokenizer: VQVAE, tokens: Callable[[], TokenPyramid]) -> Architecture:
    """The architecture of a diffusion model with the spread of these tokens' latents; any other as it is."""
    if not isinstance(config, DiTConfig) or config.latent_scale != 1:
        return config
    spread = tokenizer.quantizer.decode(tokens().to(tokenizer.device)).std()
    return replace(config, latent_scale=float(f"{float(spread):.4g}"))  # the same on every machine


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
