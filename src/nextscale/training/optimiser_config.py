"""AdamW's settings, and those of the kinds of models that have their own; without torch, so that help is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nextscale.config import require_above_zero, require_at_least, require_share


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW and its learning-rate schedule."""

    learning_rate: float = 1e-4
    "Peak learning rate at a batch of --rate-batch."
    rate_batch: int = 256
    "The rate used is --learning-rate x batch / this; 0 takes it as it is at any batch."
    beta1: float = 0.9
    "AdamW's first-moment decay."
    beta2: float = 0.95
    "AdamW's second-moment decay."
    beta2_end: float = -1.0
    "AdamW's second-moment decay at the end, reached along half a cosine; negative keeps it constant."
    weight_decay: float = 0.05
    "Decoupled weight decay of matrices."
    weight_decay_end: float = -1.0
    "Weight decay at the end, reached along half a cosine; negative keeps it constant."
    clip: float = 2.0
    "Largest gradient norm; larger gradients are scaled down."
    warmup: float = 0.02
    "Share of the steps that warm up, from 0.005 of the peak."
    flat: float = 0.05
    "Share of the remaining steps at the peak before the decay."
    cosine: bool = False
    "Decay along half a cosine instead of linearly."
    final: float = 0.1
    "Final learning rate as a share of the peak."
    ema: float = 0.9999
    "Decay of the averaged weights that are exported; it warms up as (1 + n) / (10 + n)."
    ema_half_life: float = 0.0
    "Instead of ema: half-life of the average as a share of all steps, reached from 0 along half a cosine; 0 is off."

    def __post_init__(self) -> None:
        require_above_zero(self, "learning_rate", "clip")
        require_at_least(self, 0, "weight_decay", "final", "rate_batch", "ema_half_life")
        require_share(self, "beta1", "beta2", "flat")
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not math.isfinite(self.weight_decay_end):
            raise ValueError(f"weight_decay_end must be a number, got {self.weight_decay_end}")
        if not self.beta2_end < 1:
            raise ValueError(f"beta2_end must be below 1, got {self.beta2_end}")


def r3gan_optimiser() -> OptimiserConfig:
    """Adam as R3GAN published it: no first moment, no decay of weights, the rate and beta2 along half a cosine."""
    adam = {"learning_rate": 2e-4, "rate_batch": 0, "beta1": 0.0, "beta2": 0.9, "beta2_end": 0.99, "weight_decay": 0.0}
    course = {"cosine": True, "final": 0.25, "warmup": 0.0, "flat": 0.0, "clip": 1e4, "ema_half_life": 0.025}
    return OptimiserConfig(**adam, **course)


def stylegan_xl_optimiser() -> OptimiserConfig:
    """Adam as StyleGAN-XL published it, at one rate; the average's half-life is 312.5 steps at any batch."""
    adam = {"learning_rate": 2.5e-3, "rate_batch": 0, "beta1": 0.0, "beta2": 0.99, "weight_decay": 0.0}
    course = {"final": 1.0, "warmup": 0.0, "flat": 0.0, "clip": 1e4, "ema": 0.5 ** (1 / 312.5)}
    return OptimiserConfig(**adam, **course)


OPTIMISERS = {"r3gan": r3gan_optimiser, "stylegan-xl": stylegan_xl_optimiser}
"""Default optimisers of kinds that have their own."""
