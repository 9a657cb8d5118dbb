"""Settings that several commands share, with their help. Nothing here imports torch, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


class NamesColumns:
    """Settings that say which columns of the data hold images and labels."""

    label_column: str
    image_column: str

    @property
    def columns(self) -> dict[str, str]:
        """As `open_source` takes them."""
        return {"label_column": self.label_column, "image_column": self.image_column}


@dataclass(frozen=True, kw_only=True)
class DataColumns(NamesColumns):
    """Columns of images and labels, in data where they are in doubt."""

    label_column: str = ""
    "Column of the labels where it is in doubt (in .tar: a suffix, a .json key, folder); none: no classes."
    image_column: str = ""
    "Column of the images where it is in doubt; in .tar: their suffix."


@dataclass(frozen=True, kw_only=True)
class Computing:
    """In which precision a model is computed, and where."""

    precision: str = "auto"
    "auto, fp32, bf16, fp16, int8 (CPU)."
    device: str = "auto"
    "auto, cpu, cuda, mps."


class SetsSampling:
    """Settings that may replace the model's own settings of the sampler; None, or a missing one, keeps the model's."""

    def sampling(self) -> dict[str, Any]:
        """The sampler's settings that are replaced. Raises ValueError for one out of range."""
        from nextscale.sampling.next_scale import SamplingConfig

        names = [field.name for field in fields(SamplingConfig)]
        chosen = {name: getattr(self, name) for name in names if getattr(self, name, None) is not None}
        SamplingConfig(**chosen)
        return chosen


@dataclass(frozen=True, kw_only=True)
class SamplingFlags(SetsSampling, Computing):
    """How tokens are drawn, and on what."""

    guidance: float | None = None
    "Classifier-free guidance at the last scale, ramping up from 0; 0 is off [default: the model's]"
    top_k: int | None = None
    "Keep the k most likely tokens; 0 is off [default: the model's]"
    top_p: float | None = None
    "Keep the likeliest tokens that hold this probability together; 0 is off [default: the model's]"
    truncation: float | None = None
    "Of one-step models: latents toward their average, 0.7 say: better images, less variety [default: the model's]"


@dataclass(frozen=True, kw_only=True)
class ScaleFlags(SamplingFlags):
    """How tokens are drawn, scale by scale."""

    guided_scales: int = 0
    "Scales that are guided, from the first; 0 is all. Fewer are faster."
    spatial_guidance: tuple[float, ...] | None = None
    "Away from what the scale before says: at the second scale, falling after it; or per scale [default: the model's]"
    temperatures: tuple[float, ...] = ()
    "Temperature of each scale, such as 1.1,1,0.9; the last holds for those after it."
    refine_steps: int | None = None
    "Passes that draw the last map of a model trained with --masked-last, surest tokens first [default: the model's]"
