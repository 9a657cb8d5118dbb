"""What all samplers share: settings of the draw, hooks, and one finished step.

Shapes: B batch, C latent channels, (h, w) final grid, (h_k, w_k) grid of scale k, V codebook entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from nextscale.pyramid import ScaleSchedule, TokenPyramid


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn."""

    guidance: float = 1.5
    "Classifier-free guidance at the last scale; ramps from 0 at the first. 0 is off."
    guided_scales: int = 0
    "Scales that are guided, from the first; 0 is all. Next-scale prediction's alone."
    top_k: int = 900
    "Keep the k most likely tokens; 0 is off."
    top_p: float = 0.96
    "Keep the likeliest tokens that hold this probability together; 0 is off."
    temperature: float = 1.0
    "Divides the guided logits."
    spatial_guidance: tuple[float, ...] = ()
    "Away from what the scale before says: at the second scale, falling after it; or of each. Next-scale prediction's."
    temperatures: tuple[float, ...] = ()
    "Of each scale, instead of `temperature`; the last holds for those after it. Next-scale prediction's alone."
    smooth: bool = False
    "Soft mixtures of codes (official more_smooth): nicer pictures, not for metrics."
    steps: int = 0
    "Steps of masked prediction and diffusion; 0 is the model's own number. Other kinds have theirs."
    refine_steps: int = 1
    "Passes that draw the last map, the surest tokens first; 1 draws it at once. Refinable next-scale models' alone."
    truncation: float = 1.0
    "Latents' distance from their average, for models of one step: below 1 better images, less variety; 1 is all."

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", as_temperatures(self.temperatures))
        object.__setattr__(self, "spatial_guidance", as_strengths(self.spatial_guidance))
        if self.temperatures and self.temperature != 1:
            raise ValueError("give temperature, or temperatures per scale, not both")
        if self.guided_scales < 0:
            raise ValueError(f"guided_scales must be at least 0, got {self.guided_scales}; 0 is all")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be between 0 and 1, got {self.top_p}; 0 is off")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, got {self.top_k}; 0 is off")
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")
        if self.refine_steps < 1:
            raise ValueError(f"refine_steps must be at least 1, got {self.refine_steps}; 1 is off")
        if self.smooth and self.refine_steps > 1:
            raise ValueError("smooth mixtures are drawn at once: leave out smooth, or set refine_steps to 1")
        if not 0 <= self.truncation < 1e4:
            raise ValueError(f"truncation must be a number from 0 on, such as 0.7, got {self.truncation}; 1 is off")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not -1e4 < self.guidance < 1e4:
            raise ValueError(f"guidance must be a number such as 1.5, got {self.guidance}")

    def at(self, scale: int) -> SamplingConfig:
        """The settings of one scale: its own temperature is `temperature`."""
        if not self.temperatures:
            return self
        own = self.temperatures[min(scale, len(self.temperatures) - 1)]
        return replace(self, temperature=own, temperatures=())

    def require_scales(self, count: int) -> None:
        """Raises ValueError for settings of more scales than a model has; 0 is a model that does not go by scales."""
        if not count and self.spatial_guidance:
            raise ValueError("spatial_guidance is next-scale prediction's; this is a model of another kind")
        if not count and (self.guided_scales or self.temperatures):
            raise ValueError(
                "guided_scales and temperatures are next-scale prediction's; this is a model of another kind"
            )
        for name, asked in (("guided_scales", self.guided_scales), ("temperatures", len(self.temperatures))):
            if asked > count:
                raise ValueError(f"{name}: settings of {asked} scales, the model has {count}")
        asked, finer = len(self.spatial_guidance), max(0, count - 1)
        if asked > finer:
            raise ValueError(f"spatial_guidance: strengths of {asked} scales after the first, the model has {finer}")

    def require_dials(self, title: str, *, guides: bool, truncates: bool) -> None:
        """Raises ValueError for guidance or truncation where the model of this title has none."""
        if self.guidance and not guides:
            other = "; its dial is truncation" if truncates else ""
            raise ValueError(f"guidance is not for this model, {title}: leave it out, or say 0{other}")
        if self.truncation != 1 and not truncates:
            raise ValueError(f"truncation is for models of one step; this model is {title}: leave it out, or say 1")


def as_temperatures(values: Any) -> tuple[float, ...]:
    """Any sequence of temperatures as a tuple, which can be hashed. Raises ValueError for one that is not above 0."""
    problem = f"temperatures must be numbers above 0, one per scale, such as (1.1, 1.0), got {values!r}"
    return as_numbers(values, lambda number: 0 < number < math.inf, problem)


def as_strengths(values: Any) -> tuple[float, ...]:
    """A strength, or any sequence of some, as a tuple. Raises ValueError for one that is no number below 10,000."""
    problem = f"spatial_guidance must be numbers such as 0.5 or (0.5, 0.2), got {values!r}"
    alone = isinstance(values, (int, float))
    return as_numbers([values] if alone else values, lambda number: -1e4 < number < 1e4, problem)


def as_numbers(values: Any, fits: Callable[[float], bool], problem: str) -> tuple[float, ...]:
    """Any sequence of numbers as a tuple. Raises ValueError with the problem where one does not fit."""
    if isinstance(values, str):
        raise ValueError(problem)
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ValueError(problem) from error
    if not all(fits(number) for number in numbers):
        raise ValueError(problem)
    return numbers


SAMPLING_SETTINGS = tuple(field.name for field in fields(SamplingConfig))
"""Names of the settings of drawing."""
PARAMETERS = ("classes", "seeds", "config", "rejection")
"""What calls of a pipeline take beside settings; messages about unknown names list them."""


class SamplingHook:
    """Sees, and may replace, what each scale produces. Subclass and override what is needed.

    A hook keeps nothing from one generation to the next: the same hook and seed give the same image again.
    """

    watches: bool = False
    "Whether the hook replaces nothing. Then float32 images stay independent of their batch."

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        """Guided logits (B, h_k w_k, V) before temperature and filters; coarser scales `accumulated` (B, C, h, w)."""
        return logits

    def tokens(self, scale: int, tokens: Tensor) -> Tensor:
        """Drawn tokens (B, h_k, w_k)."""
        return tokens

    def embeddings(self, scale: int, embeddings: Tensor) -> Tensor:
        """Codebook embeddings (B, C, h_k, w_k) before they are upsampled and added."""
        return embeddings

    def accumulated(self, scale: int, accumulated: Tensor) -> Tensor:
        """Running sum (B, C, h, w) after this scale."""
        return accumulated


class HookChain(SamplingHook):
    """Several hooks, one after the other."""

    def __init__(self, *hooks: SamplingHook) -> None:
        self.hooks = hooks
        self.watches = all(hook.watches for hook in hooks)

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        for hook in self.hooks:
            logits = hook.logits(scale, logits, accumulated)
        return logits

    def tokens(self, scale: int, tokens: Tensor) -> Tensor:
        for hook in self.hooks:
            tokens = hook.tokens(scale, tokens)
        return tokens

    def embeddings(self, scale: int, embeddings: Tensor) -> Tensor:
        for hook in self.hooks:
            embeddings = hook.embeddings(scale, embeddings)
        return embeddings

    def accumulated(self, scale: int, accumulated: Tensor) -> Tensor:
        for hook in self.hooks:
            accumulated = hook.accumulated(scale, accumulated)
        return accumulated


@dataclass(frozen=True)
class ScaleSample:
    """One finished scale, or one step of a sampler of another kind."""

    scale: int
    "Number of the scale or step, from 0."
    tokens: Tensor
    "(B, h_k, w_k) int64."
    accumulated: Tensor
    "(B, C, h, w) float32."
    whole: TokenPyramid | None = None
    "All tokens, from samplers whose steps are not scales."


def pyramid_of(steps: Sequence[ScaleSample], schedule: ScaleSchedule) -> TokenPyramid:
    """All tokens of a finished generation."""
    whole = steps[-1].whole
    return whole if whole is not None else TokenPyramid.from_maps([step.tokens for step in steps], schedule)
