"""Settings of `nextscale train neon`. Nothing here imports torch, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass

from nextscale.config import PRECISIONS, require_above_zero, require_at_least, require_seed
from nextscale.settings import Computing, DataColumns

PASSES = 2
"""Passes over the samples where no number of steps is set."""
AROUND = (0.5, 1.5, 2.0)
"""Guidances that are tried beside the model's own where none are named, as multiples of it."""
ABOVE = (0.5, 1.0, 2.0)
"""The same beside a model's own guidance of 0."""


@dataclass(frozen=True, kw_only=True)
class NeonTraining(DataColumns, Computing):
    """Everything that reproduces a Neon run."""

    model: str
    "Model to improve: a run or model folder, demo, an official model, or a hub id."
    data: str
    "Real held-out images to choose by: folder, parquet, WebDataset, hub id, or an .npz file."
    out: str
    "Run folder to write."
    samples: int = 6000
    "Images drawn from the model, which a copy of it is tuned on."
    steps: int = 0
    "Optimiser steps of the tuning; 0 is two passes over the samples."
    lengths: int = 3
    "Lengths of the tuning that are tried: all of its steps and evenly spaced parts of them."
    batch_size: int = 64
    "Samples per step of the tuning."
    learning_rate: float = 1e-4
    "Rate of the last step at a batch of 256, to which it rises linearly; the rate used is this x batch / 256."
    weights: tuple[float, ...] = (0, 0.25, 0.5, 1, 1.5, 2)
    "Weights w to try: the result is (1 + w) x the model - w x its tuned copy. 0, the model itself, is always tried."
    guidances: tuple[float, ...] = ()
    "Guidances to try with each; the model's own is always tried [default: 0.5, 1, 1.5 and 2 times the model's own]"
    tuning_count: int = 2000
    "Images of each weight, guidance and length, and of the real ones they are compared with."
    features: str = "inception"
    "inception, or a torchvision classifier such as mobilenet_v2."
    feature_weights: str = ""
    "File with that network's weights; without it, they are fetched."
    seed: int = 2_000_000
    "Seed of the first image that is drawn to choose by; those of the samples follow."
    at_once: int = 64
    "Images that are drawn at once."
    precision: str = "auto"
    "auto, fp32, bf16, fp16."
    deterministic: bool = False
    "Tune to the same bits on CUDA too; slower. On CPU it always does."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "samples", "lengths", "batch_size", "at_once")
        require_at_least(self, 2, "tuning_count")
        require_at_least(self, 0, "steps")
        require_above_zero(self, "learning_rate")
        require_seed(self.seed, count=self.tuning_count + self.samples)
        if not all(0 <= weight < 1e4 for weight in self.weights):
            raise ValueError(f"weights must be numbers from 0, got {','.join(map(str, self.weights))}")
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision {self.precision!r} is not known; expected auto, {', '.join(PRECISIONS)}")
        if 0 < self.steps < self.lengths:
            raise ValueError(f"{self.lengths} lengths need as many steps at least, got {self.steps}")
        from nextscale.sampling.next_scale import SamplingConfig  # which imports torch

        for guidance in self.guidances:
            SamplingConfig(guidance=guidance)  # raises ValueError

    @property
    def tuned_steps(self) -> tuple[int, ...]:
        """The lengths of the tuning that are tried, in steps."""
        steps = self.steps or PASSES * self.samples / self.batch_size
        every = max(1, round(steps / self.lengths))
        return tuple(every * number for number in range(1, self.lengths + 1))

    def tried_weights(self) -> tuple[float, ...]:
        """The weights to try, 0 among them."""
        return tuple(sorted({0.0, *map(float, self.weights)}))

    def tried_guidances(self, own: float) -> tuple[float, ...]:
        """The guidances to try for a model whose own guidance is `own`, which is among them."""
        around = tuple(round(own * factor, 4) for factor in AROUND) if own else ABOVE
        return tuple(sorted({own, *(self.guidances or around)}))
