"""Generation scale by scale: the recursion of `tokenizer.residual` with a predictor that gives each scale's logits.

Shapes: B batch, C latent channels, (h, w) final grid, (h_k, w_k) grid of scale k, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from nextscale.conditions import Conditions, as_conditions
from nextscale.nn.transformer import Transformer
from nextscale.sampling.draw import Guidance, draw_tokens, guidance_ramp, gumbel_noise, smooth_mixture, tempered
from nextscale.sampling.exact import EachAlone, ExactDraw
from nextscale.sampling.step import SamplingConfig as SamplingConfig
from nextscale.sampling.step import SamplingHook as SamplingHook
from nextscale.sampling.step import ScaleSample as ScaleSample
from nextscale.tokenizer.residual import Quantizer, add_scale, downsample, flatten_map

Predict = Callable[[int, Tensor], Tensor]
"""(scale, what coarser scales accumulated (B, C, h, w)) -> logits (B, h_k w_k, V) float32; scales come in order."""

Draw = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""(scale, logits over the temperature (B, h_k w_k, V), noise of the same shape, accumulated) -> tokens (B, h_k w_k),
and embeddings (B, h_k w_k, C) where they are not simply those of the tokens."""


class Predictor:
    """Guided logits of a transformer for one batch, scale after scale; owns the key-value cache.

    `strengths` is the guidance at each scale. As soon as it is 0 at all scales left, the unconditional half of the
    batch is left out.
    """

    @torch.no_grad()
    def __init__(self, model: Transformer, conditions: Conditions, strengths: Sequence[float]) -> None:
        self.model, self.strengths, self.images = model, strengths, slice(len(conditions))
        self.guidance = Guidance(1.0 if any(strengths) else 0.0)  # merged with each scale's strength
        self.condition = model.condition(self.guidance.conditions(conditions))
        self.cache = model.new_cache(self.condition.batch)

    @torch.no_grad()
    def __call__(self, scale: int, accumulated: Tensor) -> Tensor:
        """(B, h_k w_k, V) float32 from what coarser scales accumulated (B, C, h, w)."""
        if self.guidance.strength and not any(self.strengths[scale:]):
            self.guidance = Guidance(0.0)
            self.condition, self.cache = self.condition.select(self.images), self.cache.select(self.images)
        latents = None
        if scale > 0:
            latents = self.guidance.doubled(flatten_map(downsample(accumulated, self.model.schedule[scale])))
        x_BLC = self.model.embed(latents, self.condition, self.model.sequence.slice(scale))
        transform = self.model.run or self.model.transform
        read_BLC = transform(x_BLC, self.condition, cache=self.cache)
        return self.model.classify(self.guidance.merged(read_BLC, self.strengths[scale]))


def sample(
    predict: Predict,
    quantizer: Quantizer,
    *,
    generators: Sequence[torch.Generator],
    config: SamplingConfig,
    hook: SamplingHook | None = None,
    draw: Draw | None = None,
) -> Iterator[ScaleSample]:
    """Generate a batch coarse to fine, yielding after every scale: one image for each of the `generators`.

    `predict` may be one model, two in turn, or a predictor around another; its logits are guided already.
    """
    hook = hook or SamplingHook()
    draw = draw or (partial(smooth_draw, config, quantizer) if config.smooth else partial(plain_draw, config))
    accumulated = quantizer.zeros(len(generators))
    for scale, size in enumerate(quantizer.schedule):
        with torch.no_grad():  # not around the yield: an abandoned generator would leave gradients switched off
            logits = hook.logits(scale, predict(scale, accumulated), accumulated)
            logits = tempered(logits, config.temperature)
            noise = gumbel_noise(logits.shape[1], logits.shape[2], generators, logits.device)
            tokens, mixture = draw(scale, logits, noise, accumulated)
            token_map = hook.tokens(scale, tokens.unflatten(1, size))
            codes = quantizer.lookup(token_map) if mixture is None else mixture.transpose(1, 2).unflatten(2, size)
            embeddings = hook.embeddings(scale, codes)
            accumulated = hook.accumulated(scale, add_scale(accumulated, scale, embeddings, quantizer.refine))
        yield ScaleSample(scale, token_map, accumulated)


def plain_draw(
    config: SamplingConfig, scale: int, logits: Tensor, noise: Tensor, accumulated: Tensor
) -> tuple[Tensor, None]:
    """A token at each position."""
    return draw_tokens(logits, noise, top_k=config.top_k, top_p=config.top_p)[0], None


def smooth_draw(
    config: SamplingConfig, quantizer: Quantizer, scale: int, logits: Tensor, noise: Tensor, accumulated: Tensor
) -> tuple[Tensor, Tensor]:
    """A mixture of codes at each position, and the token with the largest weight (official `more_smooth`)."""
    weights = smooth_mixture(logits, noise, config, ratio=guidance_ramp(scale, len(quantizer.schedule)))
    return weights.argmax(dim=-1), quantizer.mixture(weights)


def sample_scales(
    model: Transformer,
    quantizer: Quantizer,
    classes: Tensor | Conditions,
    *,
    generators: Sequence[torch.Generator],
    config: SamplingConfig,
    hook: SamplingHook | None = None,
) -> Iterator[ScaleSample]:
    """Generate a batch with a next-scale transformer, yielding after every scale.

    `classes` are conditions or ids (B,) int64; one generator per image. In float32 without a hook that replaces,
    neither tokens nor pixels depend on the batch (`sampling.exact`).
    """
    conditions = as_conditions(classes, model.config.unconditional)
    assert len(conditions) == len(generators)
    strengths = [config.guidance * guidance_ramp(scale, len(model.schedule)) for scale in range(len(model.schedule))]
    predict = Predictor(model, conditions, strengths)
    exact = (hook is None or hook.watches) and not config.smooth and model.dtype == torch.float32
    if not exact or len(conditions) == 1:
        return sample(predict, quantizer, generators=generators, config=config, hook=hook)

    def alone(image: int) -> Predict:
        return Predictor(model, conditions[image : image + 1], strengths)

    draw = ExactDraw(alone, config)
    return sample(predict, EachAlone(quantizer), generators=generators, config=config, hook=hook, draw=draw)
