"""The raster-order baseline: one token after the other, each given all before it (GPT-2 order, as VQGAN's prior).

It is the next-scale transformer over a sequence whose parts are single tokens: the same blocks, class modulation,
cache and head. It reads the code of the token before instead of coarser scales.
Shapes: B batch, L tokens, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nextscale.conditions import Conditions
from nextscale.families.base import Autoregressive, Stack, unfinished_map, whole_sequence
from nextscale.families.config import TITLES
from nextscale.families.config import RasterConfig as RasterConfig
from nextscale.nn.transformer import Transformer
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.draw import Guidance, draw_next
from nextscale.sampling.step import SamplingConfig, ScaleSample
from nextscale.tokenizer.residual import Quantizer, flatten_map


class Raster(Transformer):
    """The transformer over single tokens: the parts of `step` are positions."""

    def forward(self, latents: Tensor, classes: Tensor | Conditions) -> Tensor:
        """Teacher forcing: codes before each token (B, L - 1, latent_channels), (B,) -> (B, L, V) float32."""
        return self.classify(self.hidden(latents, self.condition(classes)))

    @staticmethod
    def inputs(quantizer: Quantizer, tokens: TokenPyramid) -> Tensor:
        """The codes before each token but the first, (B, L - 1, latent_channels)."""
        with torch.no_grad():
            return flatten_map(quantizer.lookup(tokens[0]))[:, :-1]


@torch.no_grad()
def sample_raster(
    model: Raster,
    quantizer: Quantizer,
    conditions: Conditions,
    *,
    seeds: Tensor,
    config: SamplingConfig,
) -> Iterator[ScaleSample]:
    """Generate a batch, yielding after every row of the map; guidance is the same at all tokens."""
    guidance = Guidance(config.guidance)
    condition = model.condition(guidance.conditions(conditions))
    cache = model.new_cache(condition.batch)
    height, width = model.schedule.final
    tokens = torch.zeros(len(conditions), height * width, dtype=torch.int64, device=model.device)
    latents = None
    for place in range(height * width):
        read = guidance.merged(model.step(place, latents, condition, cache))
        tokens[:, place] = draw_next(model.classify(read), place, seeds, config)[:, 0]
        latents = guidance.doubled(flatten_map(quantizer.lookup(tokens[:, place].view(-1, 1, 1))))
        if (place + 1) % width == 0:
            yield unfinished_map(tokens, quantizer, place + 1)


class RasterFamily(Autoregressive):
    """Raster order."""

    kind = "raster"
    title = TITLES["raster"]
    config = RasterConfig
    network = Raster
    sampler = staticmethod(sample_raster)

    def stacks(self, config: RasterConfig, *, steps: int = 0, guided_scales: int = 0) -> Sequence[Stack]:
        return [whole_sequence(config)]

    def yields(self, config: RasterConfig) -> int:
        return config.schedule.final[0]


FAMILY = RasterFamily()
