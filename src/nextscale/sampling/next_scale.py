"""Generation scale by scale: the recursion of `tokenizer.residual` with a predictor that gives each scale's logits.

Shapes: B batch, C latent channels, (h, w) final grid, (h_k, w_k) grid of scale k, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions import ClassLabels, Conditions, TextPrompts, as_conditions
from nextscale.nn.graphs import Graphs
from nextscale.nn.transformer import Transformer
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.draw import Guidance, draw_next, guidance_ramp, guidance_strengths, smooth_mixture, tempered
from nextscale.sampling.exact import EachAlone, ExactDraw, ExactInPasses
from nextscale.sampling.noise import TOKENS, gumbel_noise, image_seeds
from nextscale.sampling.passes import DrawInPasses, require_refinable
from nextscale.sampling.spatial_guidance import SpatiallyGuided, spatial_strengths
from nextscale.sampling.step import SamplingConfig as SamplingConfig
from nextscale.sampling.step import SamplingHook as SamplingHook
from nextscale.sampling.step import ScaleSample as ScaleSample
from nextscale.tokenizer.residual import Quantizer, add_scale, downsample, flatten_map

Predict = Callable[..., Tensor]
"""(scale, what coarser scales accumulated (B, C, h, w)) -> logits (B, h_k w_k, V) float32; scales come in order.

With `refine_steps`, the last scale comes again: with the codes of tokens that are known in what was accumulated, and
where they are, (B, h_k w_k) bool."""

Draw = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""(scale, guided logits (B, h_k w_k, V), what coarser scales accumulated) -> tokens (B, h_k w_k), and embeddings
(B, h_k w_k, C) where they are not simply those of the tokens."""

Captured = ClassLabels | TextPrompts
"""Conditions that a CUDA graph takes as its inputs: nothing of them is baked in."""


class Predictor:
    """Guided logits of a transformer for one batch, scale after scale; owns the key-value cache, if any.

    `strengths` is the guidance at each scale that it predicts. As soon as it is 0 at all scales left, the unconditional
    half of the batch is left out.
    """

    @torch.no_grad()
    def __init__(self, model: Transformer, conditions: Conditions, strengths: Sequence[float]) -> None:
        self.model, self.strengths, self.images = model, strengths, slice(len(conditions))
        self.guidance = Guidance(1.0 if any(strengths) else 0.0)  # merged with each scale's strength
        self.condition = model.condition(self.guidance.conditions(conditions))
        self.cache = model.new_cache(self.condition.batch, len(strengths))

    @torch.no_grad()
    def __call__(
        self, scale: int, accumulated: Tensor, known: Tensor | None = None, *, coarser: Sequence[Tensor] = ()
    ) -> Tensor:
        """(B, h_k w_k, V) float32 from what coarser scales accumulated (B, C, h, w).

        With `known` (B, h_k w_k) bool the scale that came last is predicted again: `accumulated` has its codes there.
        `coarser` is what was accumulated before each coarser scale, where another model has predicted those: their
        keys and values are computed in the same pass.
        """
        if self.guidance.strength and not any(self.strengths[scale:]):
            self.guidance = Guidance(0.0)
            self.condition = self.condition.select(self.images)
            self.cache = None if self.cache is None else self.cache.select(self.images)
        marks = {} if known is None else {"known": self.guidance.doubled(known)}
        if known is not None and self.cache is not None:
            self.cache.rewind(known.shape[1])
        x_BLC, groups = self.embed(scale, accumulated, **marks), []
        if coarser and self.cache is not None:
            x_BLC = torch.cat([*(self.embed(each, before) for each, before in enumerate(coarser)), x_BLC], dim=1)
            groups = [(span, slice(0, span.stop), None) for span in self.model.sequence.slices[: scale + 1]]
        transform = self.model.run or self.model.transform
        read_BLC = transform(x_BLC, self.condition, cache=self.cache, groups=groups)
        read_BLC = read_BLC[:, -self.model.sequence.lengths[scale] :]
        return self.model.classify(self.guidance.merged(read_BLC, self.strengths[scale]))

    def embed(self, scale: int, accumulated: Tensor, **marks: Tensor) -> Tensor:
        """What the blocks read at a scale, guided images twice."""
        latents = None
        if scale > 0:
            latents = self.guidance.doubled(flatten_map(downsample(accumulated, self.model.schedule[scale])))
        return self.model.embed(latents, self.condition, self.model.sequence.slice(scale), **marks)


class InTurn:
    """Two predictors one after the other: the first `switch` scales from one, the others from another.

    Each is made when its turn comes, and the first one's keys and values are given up then.
    """

    def __init__(self, first: Callable[[], Predict], second: Callable[[], Predict], switch: int) -> None:
        """`second` is called with `coarser`, as `Predictor` is, at the first of its scales."""
        self.make_second, self.switch = second, switch
        self.predict = first() if switch else None
        self.coarser: list[Tensor] = []  # what was accumulated before each of the first scales

    def __call__(self, scale: int, accumulated: Tensor, *known: Tensor) -> Tensor:
        """(B, h_k w_k, V) float32."""
        if scale < self.switch:
            self.coarser.append(accumulated)
        elif scale == self.switch and not known:
            self.predict = None  # before the second one takes memory
            self.predict = self.make_second()
            return self.predict(scale, accumulated, coarser=self.coarser)
        assert self.predict is not None
        return self.predict(scale, accumulated, *known)


def sample(
    predict: Predict,
    quantizer: Quantizer,
    *,
    seeds: Sequence[int] | Tensor,
    config: SamplingConfig,
    stream: int = TOKENS,
    hook: SamplingHook | None = None,
    draw: Draw | None = None,
) -> Iterator[ScaleSample]:
    """Generate a batch coarse to fine, yielding after every scale: one image for each of the `seeds`.

    `predict` may be one model, two in turn, or a predictor around another; its logits are guided already. On CUDA with
    Triton, with a tensor of seeds (B,) int64 and neither hook nor draw, nothing waits for the host: the loop may be
    captured in a CUDA graph. Images of the same seeds and another `stream` have other noise.
    """
    hook = hook or SamplingHook()
    accumulated = quantizer.zeros(len(seeds))
    seeds = image_seeds(seeds, accumulated.device)
    if draw is None:
        given = seeds, config, stream
        draw = smooth_draw(*given, quantizer) if config.smooth else plain_draw(*given)
    if config.refine_steps > 1 and not isinstance(draw, DrawInPasses):
        draw = DrawInPasses(draw, predict, quantizer, seeds, config, stream, hook)
    for scale, size in enumerate(quantizer.schedule):
        with torch.no_grad():  # not around the yield: an abandoned generator would leave gradients switched off
            logits = hook.logits(scale, predict(scale, accumulated), accumulated)
            tokens, mixture = draw(scale, logits, accumulated)
            token_map = hook.tokens(scale, tokens.unflatten(1, size))
            codes = quantizer.lookup(token_map) if mixture is None else mixture.transpose(1, 2).unflatten(2, size)
            embeddings = hook.embeddings(scale, codes)
            accumulated = hook.accumulated(scale, add_scale(accumulated, scale, embeddings, quantizer.refine))
        yield ScaleSample(scale, token_map, accumulated)


def plain_draw(seeds: Tensor, config: SamplingConfig, stream: int) -> Draw:
    """A token at each position."""

    def draw(scale: int, logits: Tensor, accumulated: Tensor) -> tuple[Tensor, None]:
        return draw_next(logits, scale, seeds, config.at(scale), stream=stream), None

    return draw


def smooth_draw(seeds: Tensor, config: SamplingConfig, stream: int, quantizer: Quantizer) -> Draw:
    """A mixture of codes at each position, and the token with the largest weight (official `more_smooth`)."""

    def draw(scale: int, logits: Tensor, accumulated: Tensor) -> tuple[Tensor, Tensor]:
        noise = gumbel_noise(seeds, scale, *logits.shape[1:], stream=stream)
        ratio = guidance_ramp(scale, len(quantizer.schedule))
        weights = smooth_mixture(tempered(logits, config.at(scale).temperature), noise, config, ratio=ratio)
        return weights.argmax(dim=-1), quantizer.mixture(weights)

    return draw


def sample_scales(
    model: Any,
    quantizer: Quantizer,
    classes: Tensor | Conditions,
    *,
    seeds: Sequence[int] | Tensor,
    config: SamplingConfig,
    stream: int = TOKENS,
    hook: SamplingHook | None = None,
) -> Iterator[ScaleSample]:
    """Generate a batch with a next-scale model, yielding after every scale.

    `model` is a transformer, or has a `predictor` of its own, which makes what predicts a batch. `classes` are
    conditions or ids (B,) int64; one seed per image. In float32 without a hook that replaces, neither tokens nor pixels
    depend on the batch (`sampling.exact`). Raises ValueError for settings of more scales than the model has, and for
    `refine_steps` that it was not trained for.
    """
    config.require_scales(len(model.schedule))
    require_refinable(config, model.config)
    conditions = as_conditions(classes, model.config.unconditional)
    assert len(conditions) == len(seeds)
    seeds = image_seeds(seeds, model.device)
    strengths = guidance_strengths(config, len(model.schedule))
    spatial = spatial_strengths(config.spatial_guidance, len(model.schedule))

    make: Callable[..., Predict] = getattr(model, "predictor", None) or partial(Predictor, model)

    def predictor(some: Conditions) -> Predict:
        predict = make(some, strengths)
        return SpatiallyGuided(predict, model.schedule, spatial) if any(spatial) else predict

    exact = (hook is None or hook.watches) and not config.smooth and model.dtype == torch.float32
    if exact and len(conditions) > 1:
        draw = ExactDraw(lambda image: predictor(conditions[image : image + 1]), seeds, config, stream)
        quantizer, predict = EachAlone(quantizer), predictor(conditions)
        if config.refine_steps > 1:
            given = draw, predict, quantizer, seeds, config, stream, hook or SamplingHook()
            draw = ExactInPasses(draw, *given)
        return sample(predict, quantizer, seeds=seeds, config=config, stream=stream, hook=hook, draw=draw)
    if model.graphs is not None and hook is None and not config.smooth and isinstance(conditions, Captured):
        return sample_at_once(model.graphs, predictor, quantizer, conditions, seeds=seeds, config=config, stream=stream)
    return sample(predictor(conditions), quantizer, seeds=seeds, config=config, stream=stream, hook=hook)


def sample_at_once(
    graphs: Graphs,
    predictor: Callable[[Conditions], Predict],
    quantizer: Quantizer,
    conditions: Captured,
    *,
    seeds: Tensor,
    config: SamplingConfig,
    stream: int,
) -> Iterator[ScaleSample]:
    """`sample` as one graph of all scales, which are then there at once; `predictor` makes what predicts a batch."""

    def all_scales(seeds: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        predict = predictor(conditions.of(*tensors))
        steps = list(sample(predict, quantizer, seeds=seeds, config=config, stream=stream))
        packed = torch.cat([step.tokens.flatten(1) for step in steps], dim=1)
        return packed, torch.stack([step.accumulated for step in steps], dim=1)

    key = sample_at_once, quantizer, config, stream
    packed, accumulated = graphs(key, all_scales, seeds, *conditions.tensors)
    pyramid = TokenPyramid(packed, quantizer.schedule)
    for scale, tokens in enumerate(pyramid):
        yield ScaleSample(scale, tokens, accumulated[:, scale])
