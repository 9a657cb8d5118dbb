"""What families of one step have in common: images of latents, two players, truncation, and what an image costs.

A network of such a family has `generator`, `discriminator`, and
`generate(latents, conditions, *, truncation) -> images`: latents (B, Z) float32 to images (B, 3, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.conditions import ClassLabels, Conditions
from nextscale.families.base import Family
from nextscale.families.config import OneStepConfig
from nextscale.runtime import exact_float32, image_generator
from nextscale.sampling.step import SamplingConfig, ScaleSample


def image_latents(seeds: Tensor, size: int) -> Tensor:
    """Normal numbers of each image, (B, size) float32 on the CPU: a function of its seed alone."""
    return torch.stack([torch.randn(size, generator=image_generator(seed)) for seed in seeds.tolist()])


@torch.no_grad()
def sample_at_once(
    model: Any, quantizer: None, conditions: Conditions, *, seeds: Tensor, config: SamplingConfig
) -> Iterator[ScaleSample]:
    """Generate a batch in one step. On CPU and in float32 image by image, so that none depends on its batch."""
    latents = image_latents(seeds, model.config.latent).to(model.device)
    alone = model.device.type == "cpu" or model.dtype == torch.float32
    size = 1 if alone else len(latents)
    parts = [slice(first, first + size) for first in range(0, len(latents), size)]
    with exact_float32():
        made = [model.generate(latents[one], conditions[one], truncation=config.truncation) for one in parts]
    yield ScaleSample(0, torch.zeros(len(latents), 1, 1, dtype=torch.int64), torch.cat(made).float())


class OneStep(Family):
    """Families that make an image of a latent at once, trained against a discriminator."""

    sampler = staticmethod(sample_at_once)
    reads_tokens = predicts_tokens = guides = False
    truncates = True

    def players(self, model: Any) -> Mapping[str, nn.Module]:
        return {"discriminator": model.discriminator, "generator": model.generator}

    def generates(self, model: Any) -> nn.Module:
        return model.generator

    def other_flops(self, config: OneStepConfig) -> float:
        """FLOPs of an image, counted by torch on a generator without weights."""
        return counted_flops(self.network, config)

    def yields(self, config: OneStepConfig) -> int:
        return 1


@lru_cache(maxsize=64)
def counted_flops(network: type[Any], config: OneStepConfig) -> float:
    """FLOPs of generating one image with a network of this architecture."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = network(config)
        latents, ids = torch.empty(1, config.latent), torch.empty(1, dtype=torch.int64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.generate(latents, ClassLabels(ids, config.unconditional), truncation=1.0)
    return float(counter.get_total_flops())
