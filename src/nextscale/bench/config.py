"""Settings of the comparison of models; they import no torch, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from nextscale.config import require_at_least, require_seed
from nextscale.evaluation.config import GenerationEvaluation
from nextscale.settings import CaptionColumns, Computing, DataColumns, PerScale

REPORT = {"models", "published", "floor", "sets", "count", "features"}
"""What a report of `nextscale compare` has at least."""


@dataclass(frozen=True, kw_only=True)
class ModelComparison(PerScale, CaptionColumns, DataColumns, Computing):
    """Settings of `nextscale compare`."""

    data: str = ""
    "Real images with which all are compared."
    out: str = "out/compare"
    "Folder for features and the report; a comparison that was stopped continues in it."
    count: int = 5000
    "Images of each set."
    sets: int = 3
    "Sets drawn with seeds of their own; their spread is reported."
    seed: int = 1_000_000
    "Seed of the first image."
    guidances: tuple[float, ...] = ()
    "Guidances to try for each model first, to compare it at the best by Frechet distance [default: its own]"
    tuning_count: int = 1000
    "Images of each guidance that is tried, of seeds of their own."
    features: str = "inception"
    "inception, or a torchvision classifier such as mobilenet_v2."
    feature_weights: str = ""
    "File with that network's weights, for any number of classes; without it, they are fetched."
    time_batches: tuple[int, ...] = (1, 32)
    "Batch sizes whose seconds per image are measured."
    rounds: int = 3
    "Rounds of each; all models in turn, medians are reported."
    batch_size: int = 64
    "Images at once in the evaluation."

    def __post_init__(self) -> None:
        require_at_least(self, 2, "count", "tuning_count")
        require_at_least(self, 1, "sets", "rounds", "batch_size")
        require_seed(self.seed, count=self.count * self.sets + self.tuning_count)
        if not self.time_batches or min(self.time_batches) < 1:
            raise ValueError(f"time_batches must be numbers from 1, got {list(self.time_batches)}")

    def evaluation(self, model: str, out: str) -> GenerationEvaluation:
        """The evaluation of one model, by the settings that have the same names there."""
        names = {field.name for field in fields(GenerationEvaluation)} & {field.name for field in fields(self)}
        same: dict[str, Any] = {name: getattr(self, name) for name in names - {"out"}}
        return GenerationEvaluation(model=model, out=out, **same)
