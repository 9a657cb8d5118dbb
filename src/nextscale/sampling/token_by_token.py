"""Generation of the raster and the residual-quantised baseline: one token after the other, with caches.

Guidance is as strong at every token; filters and the draw are next-scale prediction's.
Shapes: B batch, P positions, D codes of each, V codebook entries, c latent channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nextscale.families.raster import Raster
from nextscale.families.rq import RQTransformer
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.draw import draw, gumbel_noise
from nextscale.sampling.filters import Guidance, tempered
from nextscale.sampling.next_scale import SamplingConfig, ScaleSample
from nextscale.tokenizer.quantizer import ResidualQuantizer


def drawn(logits: Tensor, generators: Sequence[torch.Generator], config: SamplingConfig) -> Tensor:
    """One token per position, (B, l, V) -> (B, l)."""
    logits = tempered(logits, config.temperature)
    noise = gumbel_noise(logits.shape[1], logits.shape[2], generators, logits.device)
    return draw(logits, noise, top_k=config.top_k, top_p=config.top_p)[0]


@torch.no_grad()
def sample_raster(
    model: Raster,
    quantizer: ResidualQuantizer,
    classes: Tensor,
    *,
    generators: Sequence[torch.Generator],
    config: SamplingConfig,
) -> Iterator[ScaleSample]:
    """Generate a batch, yielding after every row of the map."""
    guidance = Guidance(config.guidance)
    condition = model.condition(guidance.classes(classes, model.config.unconditional))
    cache = model.new_cache(condition.batch)
    height, width = model.schedule.final
    tokens = torch.zeros(len(classes), height * width, dtype=torch.int64, device=classes.device)
    latents = None
    for place in range(height * width):
        hidden = guidance.merged(model.step(place, latents, condition, cache))
        tokens[:, place] = drawn(model.classify(hidden), generators, config)[:, 0]
        latents = guidance.doubled(quantizer.codebook[tokens[:, place]][:, None])
        if (place + 1) % width == 0:
            yield finished(tokens, quantizer, place + 1)


@torch.no_grad()
def sample_rq(
    model: RQTransformer,
    quantizer: ResidualQuantizer,
    classes: Tensor,
    *,
    generators: Sequence[torch.Generator],
    config: SamplingConfig,
) -> Iterator[ScaleSample]:
    """Generate a batch, position by position and code by code; yielded after each row."""
    guidance = Guidance(config.guidance)
    both = guidance.classes(classes, model.config.unconditional)
    condition = model.spatial.condition(both)
    by_depth = model.by_depth.condition(both)
    cache = model.spatial.new_cache(len(both))
    places, codes = model.config.positions, model.config.codes
    width = model.schedule.final[1]
    tokens = torch.zeros(len(classes), codes, places, dtype=torch.int64, device=classes.device)
    latents = None
    for place in range(places):
        state = replace(by_depth, start_BC=model.spatial.advance(place, latents, condition, cache)[:, 0])
        small = model.by_depth.new_cache(len(both))
        total: Tensor | None = None
        for code in range(codes):
            hidden = guidance.merged(model.by_depth.step(code, total, state, small))
            tokens[:, code, place] = drawn(model.by_depth.classify(hidden), generators, config)[:, 0]
            added = guidance.doubled(quantizer.codebook[tokens[:, code, place]][:, None])
            total = added if total is None else total + added
        latents = total
        if (place + 1) % width == 0:
            yield finished(tokens.flatten(1), quantizer, place + 1)


def finished(packed: Tensor, quantizer: ResidualQuantizer, known: int) -> ScaleSample:
    """The map so far: the last scale's tokens, and what is accumulated, empty where nothing is known yet."""
    pyramid = TokenPyramid(packed.clone(), quantizer.schedule)
    accumulated = quantizer.decode(pyramid)
    height, width = quantizer.schedule.final
    there = torch.arange(height * width, device=packed.device).view(height, width) < known
    return ScaleSample((known - 1) // width, pyramid[len(pyramid) - 1], accumulated * there, pyramid)
