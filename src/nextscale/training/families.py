"""Settings of stage 2 for each kind of model; the loop is `train_transformer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from nextscale.families.config import DiTConfig, MaskGITConfig, RasterConfig, RQConfig
from nextscale.presets import family_presets
from nextscale.training.config import TransformerTraining


@dataclass(frozen=True, kw_only=True)
class RasterTraining(TransformerTraining):
    """Everything that reproduces a run of the raster-order baseline."""

    model: RasterConfig = field(default_factory=lambda: family_presets("raster")["small"])  # pyright: ignore


@dataclass(frozen=True, kw_only=True)
class RQTraining(TransformerTraining):
    """Everything that reproduces a run of the RQ-Transformer baseline."""

    model: RQConfig = field(default_factory=lambda: family_presets("rq")["small"])  # pyright: ignore


@dataclass(frozen=True, kw_only=True)
class MaskGITTraining(TransformerTraining):
    """Everything that reproduces a run of the MaskGIT baseline."""

    model: MaskGITConfig = field(default_factory=lambda: family_presets("maskgit")["small"])  # pyright: ignore


@dataclass(frozen=True, kw_only=True)
class DiTTraining(TransformerTraining):
    """Everything that reproduces a run of the DiT baseline."""

    model: DiTConfig = field(default_factory=lambda: family_presets("dit")["small"])  # pyright: ignore


TRAININGS: dict[str, type[TransformerTraining]] = {
    "var": TransformerTraining, "raster": RasterTraining, "rq": RQTraining, "maskgit": MaskGITTraining,
    "dit": DiTTraining,
}  # fmt: skip
