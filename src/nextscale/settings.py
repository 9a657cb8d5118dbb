"""Settings that several commands share, with their help. Nothing here imports torch, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

DEMO = "demo"
"""The model of commands that are given none."""


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
class CaptionColumns:
    """Where captions are."""

    caption_column: str = ""
    "Captions: columns or .json keys (A,B), or txt for files; none: no captions [default: where they are found]"
    caption_template: str = ""
    "Captions made of class names instead, as in 'a {name}'."

    @property
    def captions(self) -> dict[str, str]:
        """As `open_source` and `open_tokens` take them."""
        return {"caption_column": self.caption_column, "caption_template": self.caption_template}


@dataclass(frozen=True, kw_only=True)
class Computing:
    """In which precision a model is computed, and where."""

    precision: str = "auto"
    "auto, fp32, bf16, fp16, int8 (CPU)."
    device: str = "auto"
    "auto, cpu, cuda, mps."


@dataclass(frozen=True, kw_only=True)
class PairFlags:
    """Two models in turn, in place of one."""

    draft: str = ""
    "Model of the first scales, in place of --model; --refine names the model of the others."
    refine: str = ""
    "Model of the scales after those of --draft, such as a smaller one: with its tokenizer and classes."
    switch: int | None = None
    "Scales that --draft draws, from the first."

    def model_or_pair(self, model: str) -> str:
        """`model`, or the name of both in turn. Raises ValueError where a part of that is missing."""
        given = {"draft": self.draft, "refine": self.refine, "switch": self.switch}
        missing = [name for name, value in given.items() if value in ("", None)]
        if len(missing) == len(given):
            return model
        if missing:
            raise ValueError(f"{missing[0]} is missing: two models in turn take draft, refine and switch")
        if self.switch is not None and self.switch < 0:
            raise ValueError(f"switch must be at least 0, got {self.switch}")
        if model != DEMO:
            raise ValueError("give model, or draft and refine for two in turn, not both")
        return f"{self.draft}+{self.refine}@{self.switch}"


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
class PerScale(SetsSampling):
    """Settings of drawing scale by scale."""

    guided_scales: int = 0
    "Scales that are guided, from the first; 0 is all. Fewer are faster."
    spatial_guidance: tuple[float, ...] | None = None
    "Away from what the scale before says: at the second scale, falling after it; or per scale [default: the model's]"
    temperatures: tuple[float, ...] = ()
    "Temperature of each scale, such as 1.1,1,0.9; the last holds for those after it."
    refine_steps: int | None = None
    "Passes that draw the last map of a model trained with --masked-last, surest tokens first [default: the model's]"


@dataclass(frozen=True, kw_only=True)
class ScaleFlags(PerScale, SamplingFlags):
    """How tokens are drawn, also scale by scale."""
