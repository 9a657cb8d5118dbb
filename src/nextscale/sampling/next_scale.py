"""Generation scale by scale: the recursion of `tokenizer.residual` with a transformer that chooses.

Shapes: B batch, C latent channels, (h, w) final grid, (h_k, w_k) grid of scale k, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.families.var import VAR
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.sampling.draw import draw, gumbel_noise
from nextscale.sampling.filters import Guidance, filter_logits, guidance_ramp, tempered
from nextscale.tokenizer.quantizer import ResidualQuantizer
from nextscale.tokenizer.residual import accumulate, downsample, flatten_map

NEAR_TIE = 5e-4
"""Scores closer than this are decided again in isolation, at a guidance of up to 1.5: batches move logits by 5e-5."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn."""

    guidance: float = 1.5
    "Classifier-free guidance at the last scale; ramps from 0 at the first. 0 is off."
    top_k: int = 900
    "Keep the k most likely tokens; 0 is off."
    top_p: float = 0.96
    "Keep the likeliest tokens that hold this probability together; 0 is off."
    temperature: float = 1.0
    "Divides the guided logits."
    smooth: bool = False
    "Soft mixtures of codes (official more_smooth): nicer pictures, not for metrics."
    steps: int = 0
    "Steps of masked prediction and diffusion; 0 is the model's own number. Other kinds have theirs."

    def __post_init__(self) -> None:
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be between 0 and 1, got {self.top_p}; 0 is off")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, got {self.top_k}; 0 is off")
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not -1e4 < self.guidance < 1e4:
            raise ValueError(f"guidance must be a number such as 1.5, got {self.guidance}")


class SamplingHook:
    """Sees, and may replace, what each scale produces. Subclass and override what is needed.

    A hook that serves several generations keeps nothing of one for the next: what it may need is handed to it.
    """

    watches = False
    "Whether the hook only looks: a watcher leaves float32 images independent of their batch."

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        """Guided logits (B, h_k w_k, V) before temperature and filters, and what coarser scales left, (B, C, h, w)."""
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


class GuidedLogits:
    """Guided logits of one scale after another for a fixed batch of classes; owns the key-value cache."""

    @torch.no_grad()
    def __init__(self, model: VAR, classes: Tensor, guidance: float) -> None:
        self.model = model
        self.guidance = Guidance(guidance)
        self.condition = model.condition(self.guidance.classes(classes, model.config.unconditional))
        self.cache = model.new_cache(self.condition.batch)

    @torch.no_grad()
    def __call__(self, scale: int, accumulated: Tensor) -> Tensor:
        """(B, h_k w_k, V) float32 from what coarser scales accumulated (B, C, h, w)."""
        latents = None
        if scale > 0:
            latents = self.guidance.doubled(flatten_map(downsample(accumulated, self.model.schedule[scale])))
        hidden = self.model.step(scale, latents, self.condition, self.cache)
        return self.model.classify(self.guidance.merged(hidden, guidance_ramp(scale, len(self.model.schedule))))


def sample_scales(
    model: VAR,
    quantizer: ResidualQuantizer,
    classes: Tensor,
    *,
    generators: Sequence[torch.Generator],
    config: SamplingConfig,
    hook: SamplingHook | None = None,
) -> Iterator[ScaleSample]:
    """Generate a batch coarse to fine, yielding after every scale.

    `classes` (B,) int64, one generator per image. In float32 without a hook that replaces, near ties are
    decided by logits computed for that image alone, and images are accumulated one by one, so that neither
    tokens nor pixels depend on the batch.
    """
    assert len(classes) == len(generators)
    exact = (hook is None or hook.watches) and not config.smooth and model.dtype == torch.float32
    isolate = exact and len(classes) > 1
    hook = hook or SamplingHook()
    scales = len(model.schedule)
    guided = GuidedLogits(model, classes, config.guidance)
    maps: list[Tensor] = []

    @torch.no_grad()  # not on the generator: a run that is given up would complain at the interpreter's end
    def choose(scale: int, accumulated: Tensor) -> Tensor:
        logits = tempered(hook.logits(scale, guided(scale, accumulated), accumulated), config.temperature)
        noise = gumbel_noise(logits.shape[1], logits.shape[2], generators, logits.device)
        if config.smooth:
            mixture = smooth_mixture(logits, noise, config, ratio=guidance_ramp(scale, scales))
            tokens, embeddings = mixture.argmax(dim=-1), mixture @ quantizer.codebook
        else:
            margin = near_tie(config) if isolate else 0.0
            tokens, doubtful = draw(logits, noise, top_k=config.top_k, top_p=config.top_p, margin=margin)
            if isolate:
                for image in doubtful.any(dim=-1).nonzero().flatten().tolist():
                    tokens[image] = isolated_draw(
                        model, quantizer, classes[image : image + 1], [m[image : image + 1] for m in maps],
                        noise[image : image + 1], config,
                    )  # fmt: skip
            embeddings = None
        size = model.schedule[scale]
        maps.append(hook.tokens(scale, tokens.unflatten(1, size)))
        if embeddings is None:
            chosen = quantizer.lookup(maps[-1])
        else:
            chosen = embeddings.transpose(1, 2).unflatten(2, size)
        return hook.embeddings(scale, chosen)

    @torch.no_grad()
    def refine(scale: int, upsampled: Tensor) -> Tensor:
        if not isolate:
            return quantizer.refine(scale, upsampled)
        return torch.cat([quantizer.refine(scale, image) for image in upsampled.split(1)])

    steps = accumulate(quantizer.zeros(len(classes)), model.schedule, choose, refine)
    state = next(steps)
    while True:
        accumulated = hook.accumulated(state.scale, state.accumulated)
        yield ScaleSample(state.scale, maps[-1], accumulated)
        try:
            state = steps.send(accumulated)
        except StopIteration:
            return


def near_tie(config: SamplingConfig) -> float:
    """Difference of scores below which a draw is decided again in isolation: guidance magnifies rounding."""
    return NEAR_TIE * max(1.0, (1 + 2 * abs(config.guidance)) / 4) / config.temperature


def smooth_mixture(logits_BLV: Tensor, noise_BLV: Tensor, config: SamplingConfig, *, ratio: float) -> Tensor:
    """Gumbel-softmax weights over the codebook, (B, L, V) (official `more_smooth`)."""
    filtered = filter_logits(logits_BLV, top_k=config.top_k, top_p=config.top_p)
    temperature = max(0.27 * (1 - 0.95 * ratio), 0.005)
    return ((filtered * (1 + ratio) + noise_BLV) / temperature).softmax(dim=-1)


def isolated_draw(
    model: VAR,
    quantizer: ResidualQuantizer,
    classes: Tensor,
    maps: Sequence[Tensor],
    noise: Tensor,
    config: SamplingConfig,
) -> Tensor:
    """Draw the scale after `maps` for one image from logits computed for it alone, (1, h_k w_k)."""
    guided = GuidedLogits(model, classes, config.guidance)
    accumulated = quantizer.zeros(1)
    known = accumulate(accumulated, model.schedule, lambda scale, _: quantizer.lookup(maps[scale]), quantizer.refine)
    for scale in range(len(maps)):
        guided(scale, accumulated)
        accumulated = next(known).accumulated
    logits = tempered(guided(len(maps), accumulated), config.temperature)
    tokens, _ = draw(logits, noise, top_k=config.top_k, top_p=config.top_p)
    return tokens[0]
