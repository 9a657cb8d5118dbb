"""The diffusion baseline: DiT (arXiv 2212.09748) on the tokenizer's latents, AdaLN-zero blocks, noise prediction.

Sampled with the schedulers of diffusers.
Shapes: B batch, C width, c latent channels, (h, w) latent map, p patch, L = h w / p^2 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.conditions import Conditions, as_conditions, vectors_and_context
from nextscale.errors import require
from nextscale.families.base import Family, Figures, Stack
from nextscale.families.config import TITLES
from nextscale.families.config import DiTConfig as DiTConfig
from nextscale.nn.block import ROWS
from nextscale.nn.linear import Linear
from nextscale.nn.text import TextEncoder
from nextscale.nn.transformer import Backbone, Condition, draw_weights
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.runtime import image_generator
from nextscale.sampling.draw import Guidance
from nextscale.sampling.step import SamplingConfig, ScaleSample
from nextscale.tokenizer.residual import Quantizer
from nextscale.tokenizer.vqvae import VQVAE

FREQUENCIES = 256
"""Sines and cosines that encode a time step."""
PREVIEWS = 10
"""How often a generation yields its latents."""


class DiT(Backbone):
    """Transformer from noisy latents, a time step and a class to the noise."""

    config: DiTConfig

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        width, inputs = config.width, config.latent_channels * config.patch**2
        self.word_embedding = nn.Linear(inputs, width)
        self.positions = nn.Parameter(torch.empty(config.tokens, width))
        self.class_embedding = nn.Embedding(config.classes + 1, width) if config.text is None else None
        self.text = None if config.text is None else TextEncoder(config.text, width)
        self.time_embedding = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = self.make_blocks()
        self.head_modulation = Linear(width, 2 * width)
        self.head = Linear(width, inputs)

    def initialise(self, *, gamma: float = 0.0, head: float = 0.0) -> None:
        """Branches scaled by `gamma` and the head by `head`: at 0 the model starts as the identity (AdaLN-zero)."""
        draw_weights(self, self.config.width, self.positions)
        with torch.no_grad():
            self.head.weight.mul_(head)
            for block in self.blocks:
                assert block.modulation is not None
                rows = block.modulation.weight.unflatten(0, (ROWS, -1))
                rows[:2].mul_(gamma)
                rows[2:].mul_(0.5)

    def condition(self, times: Tensor, classes: Tensor | Conditions) -> Condition:
        """Modulation rows of times and conditions, or class ids, (B,)."""
        conditions = as_conditions(classes, self.config.unconditional)
        waves = frequencies(times).to(self.positions.dtype)
        vectors_BC, context = vectors_and_context(conditions, self)
        vectors_BC = self.time_embedding(waves) + vectors_BC
        assert self.head_modulation is not None
        head_rows = self.head_modulation(F.silu(vectors_BC)).unflatten(1, (2, -1)).float()
        rows = [block.rows(vectors_BC, None) for block in self.blocks]
        return Condition(vectors_BC, rows, head_rows, self.block_contexts(context))

    def forward(self, noisy: Tensor, times: Tensor, classes: Tensor | Conditions) -> Tensor:
        """Noise of noisy latents (B, c, h, w) at times (B,) of classes (B,), (B, c, h, w) float32."""
        p = self.config.patch
        x_BLC = self.word_embedding(F.pixel_unshuffle(noisy.to(self.positions.dtype), p).flatten(2).transpose(1, 2))
        x_BLC = self.transform(x_BLC + self.positions, self.condition(times, classes))
        noise = self.classify(x_BLC)
        height, width = (side // p for side in self.schedule.final)
        return F.pixel_shuffle(noise.transpose(1, 2).unflatten(2, (height, width)), p)


def frequencies(times: Tensor) -> Tensor:
    """Sines and cosines of times (B,), (B, FREQUENCIES) float32, periods from 1 to 10,000 times 2 pi."""
    half = FREQUENCIES // 2
    rates = torch.exp(torch.arange(half, device=times.device) * (-math.log(10_000) / half))
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def noise_scheduler(config: DiTConfig) -> Any:
    """DDPM's schedule (arXiv 2006.11239): linear variances, noise prediction, nothing clipped.

    Raises ValueError without diffusers.
    """
    require("the diffusion baseline", "diffusers")
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=config.noise_levels,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        variance_type="fixed_large",
        timestep_spacing="trailing",
    )


training_scheduler = lru_cache(maxsize=8)(noise_scheduler)
"""`noise_scheduler` for adding noise, made once; sampling changes its scheduler and needs one of its own."""


@torch.no_grad()
def sample_diffusion(
    model: DiT,
    quantizer: Quantizer,
    conditions: Conditions,
    *,
    seeds: Tensor,
    config: SamplingConfig,
) -> Iterator[ScaleSample]:
    """Generate a batch from noise; guidance is the same at all steps.

    Yields the latents some ten times, the last time at the end, with the tokens they quantise to.
    """
    scheduler = noise_scheduler(model.config)
    steps = config.steps or model.config.sampling_steps
    if steps > model.config.noise_levels:
        raise ValueError(f"steps must be at most the model's {model.config.noise_levels} noise levels, got {steps}")
    scheduler.set_timesteps(steps)
    shape = (model.config.latent_channels, *model.schedule.final)
    generators = [image_generator(seed) for seed in seeds.tolist()]  # normal numbers are torch's
    start = [torch.randn(1, *shape, generator=generator) for generator in generators]
    latents = torch.cat(start).to(model.device)
    guidance = Guidance(config.guidance)
    both = guidance.conditions(conditions)
    for number, time in enumerate(scheduler.timesteps, 1):
        noise = guidance.merged(model(guidance.doubled(latents), time.to(model.device).expand(len(both)), both))
        latents = scheduler.step(noise, time, latents, generator=generators).prev_sample
        if number % max(1, steps // PREVIEWS) == 0 or number == steps:
            features = latents * model.config.latent_scale
            pyramid = quantizer.encode(features)
            yield ScaleSample(number - 1, pyramid[len(pyramid) - 1], features, pyramid)


class DiTFamily(Family):
    """Diffusion over the tokenizer's latents."""

    kind = "dit"
    title = TITLES["dit"]
    config = DiTConfig
    network = DiT
    sampler = staticmethod(sample_diffusion)
    predicts_tokens = False

    def initialise(self, model: DiT, *, gamma: float) -> None:
        """AdaLN-zero: branches and head start at 0, whatever `gamma`."""
        model.initialise()

    @torch.no_grad()
    def fitted(self, config: DiTConfig, tokenizer: VQVAE, tokens: Callable[[], TokenPyramid]) -> DiTConfig:
        """The architecture with the spread of these tokens' latents, unless it names one."""
        if config.latent_scale != 1:
            return config
        spread = tokenizer.quantizer.decode(tokens().to(tokenizer.device)).std()
        return replace(config, latent_scale=float(f"{float(spread):.4g}"))  # the same on every machine

    def loss(
        self,
        model: Any,
        batch: TokenPyramid,
        classes: Tensor,
        *,
        tokenizer: VQVAE | None,
        config: DiTConfig,
        label_smoothing: float = 0.0,
        player: str = "",
    ) -> tuple[Tensor, Figures]:
        """Mean squared error of the noise, of variance 1, in noisy latents at uniform times (DDPM, eq. 14)."""
        assert tokenizer is not None
        with torch.no_grad():
            latents = tokenizer.quantizer.decode(batch) / config.latent_scale
            noise = torch.randn_like(latents)
            times = torch.randint(config.noise_levels, (len(latents),), device=latents.device)
            noisy = training_scheduler(config).add_noise(latents, noise, times)
        loss = F.mse_loss(model(noisy, times, classes), noise)
        return loss, {"loss": loss.detach()}

    def stacks(self, config: DiTConfig, *, steps: int = 0, guided_scales: int = 0) -> Sequence[Stack]:
        """The whole map at every step, and what the time modulates."""
        inputs, width = config.latent_channels * config.patch**2, config.width
        return [
            Stack(
                config=config,
                sequence=ScaleSchedule([(1, config.tokens)]),
                times=steps or config.sampling_steps,
                embedded=config.tokens,
                latent_channels=inputs,
                head_positions=config.tokens,
                head_outputs=inputs,
                head_after_guidance=False,
                condition_flops=2.0 * (FREQUENCIES * width + width**2),
                conditions=steps or config.sampling_steps,
            )
        ]

    def yields(self, config: DiTConfig) -> int:
        return PREVIEWS


FAMILY = DiTFamily()
