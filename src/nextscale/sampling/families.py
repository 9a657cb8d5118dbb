"""The sampler of each kind of model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nextscale.families.dit import DiT
from nextscale.families.maskgit import MaskGIT
from nextscale.families.raster import Raster
from nextscale.families.rq import RQTransformer
from nextscale.families.table import Model
from nextscale.sampling.diffusion import sample_diffusion
from nextscale.sampling.masked import sample_masked
from nextscale.sampling.next_scale import SamplingConfig, SamplingHook, ScaleSample, sample_scales
from nextscale.sampling.token_by_token import sample_raster, sample_rq
from nextscale.tokenizer.quantizer import ResidualQuantizer


def sample_model(
    model: Model,
    quantizer: ResidualQuantizer,
    classes: Tensor,
    *,
    generators: Sequence[torch.Generator],
    config: SamplingConfig,
    hook: SamplingHook | None = None,
) -> Iterator[ScaleSample]:
    """Generate a batch of classes (B,), one generator each, with the model's own sampler.

    Hooks reach into next-scale prediction only. Raises ValueError for a hook elsewhere.
    """
    samplers = {Raster: sample_raster, RQTransformer: sample_rq, MaskGIT: sample_masked, DiT: sample_diffusion}
    sampler = samplers.get(type(model))
    if sampler is None:
        return sample_scales(model, quantizer, classes, generators=generators, config=config, hook=hook)  # pyright: ignore[reportArgumentType]
    if hook is not None:
        raise ValueError("hooks reach into the scales of next-scale prediction; this is a model of another kind")
    if config.smooth:
        raise ValueError("smooth mixtures of codes are next-scale prediction's; this is a model of another kind")
    return sampler(model, quantizer, classes, generators=generators, config=config)  # pyright: ignore[reportArgumentType]
