"""Generation of the diffusion baseline, with the schedulers of diffusers.

Shapes: B batch, c latent channels, (h, w) latent map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nextscale.errors import require
from nextscale.families.dit import DiT, DiTConfig
from nextscale.sampling.filters import Guidance
from nextscale.sampling.next_scale import SamplingConfig, ScaleSample
from nextscale.tokenizer.quantizer import ResidualQuantizer

PREVIEWS = 10
"""Times that latents are shown on the way."""


def noise_scheduler(config: DiTConfig) -> Any:
    """DDPM's schedule (arXiv 2006.11239): linear variances, noise prediction, nothing clipped.

    Raises ValueError without diffusers.
    """
    require("the diffusion baseline", "diffusers")
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=config.noise_levels, beta_start=1e-4, beta_end=0.02, beta_schedule="linear",
        clip_sample=False, variance_type="fixed_large", timestep_spacing="trailing",
    )  # fmt: skip


@torch.no_grad()
def sample_diffusion(
    model: DiT,
    quantizer: ResidualQuantizer,
    classes: Tensor,
    *,
    generators: Sequence[torch.Generator],
    config: SamplingConfig,
) -> Iterator[ScaleSample]:
    """Generate a batch from noise; guidance is (1 + t) conditional - t unconditional at every step.

    Yields the latents ten times on the way and at the end, with the tokens they quantise to.
    """
    scheduler = noise_scheduler(model.config)
    steps = config.steps or model.config.sampling_steps
    if steps > model.config.noise_levels:
        raise ValueError(f"steps must be at most the model's {model.config.noise_levels} noise levels, got {steps}")
    scheduler.set_timesteps(steps)
    shape = (model.config.latent_channels, *model.schedule.final)
    start = [torch.randn(1, *shape, generator=generator) for generator in generators]
    latents = torch.cat(start).to(classes.device)
    guidance = Guidance(config.guidance)
    both = guidance.classes(classes, model.config.unconditional)
    for number, time in enumerate(scheduler.timesteps, 1):
        noise = guidance.merged(model(guidance.doubled(latents), time.to(classes.device).expand(len(both)), both))
        latents = scheduler.step(noise, time, latents, generator=list(generators)).prev_sample
        if number % max(1, steps // PREVIEWS) == 0 or number == steps:
            features = latents * model.config.latent_scale
            pyramid = quantizer.encode(features)
            yield ScaleSample(number - 1, pyramid[len(pyramid) - 1], features, pyramid)
