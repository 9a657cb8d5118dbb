"""The diffusion baseline: DiT (arXiv 2212.09748) on the tokenizer's latents, AdaLN-zero blocks, noise prediction.

Shapes: B batch, C width, c latent channels, (h, w) latent map, p patch, L = h w / p^2 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_
from torch.utils.checkpoint import checkpoint

from nextscale.families.config import DiTConfig
from nextscale.nn.block import ROWS, AdaLNBlock, modulate
from nextscale.nn.linear import Linear

FREQUENCIES = 256
"""Sines and cosines that a time step is told by."""


class DiT(nn.Module):
    """Transformer from noisy latents, a time step and a class to the noise."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        self.checkpointing = False
        width, inputs = config.width, config.latent_channels * config.patch**2
        self.word_embedding = nn.Linear(inputs, width)
        self.positions = nn.Parameter(torch.empty(config.tokens, width))
        self.class_embedding = nn.Embedding(config.classes + 1, width)
        self.time_embedding = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        rates = [config.drop_path * block / max(1, config.depth - 1) for block in range(config.depth)]
        self.blocks: Sequence[AdaLNBlock] = nn.ModuleList(  # pyright: ignore[reportAttributeAccessIssue]
            AdaLNBlock(config.heads, normalise=config.qk_normalisation, drop_path=rate) for rate in rates
        )
        self.head_modulation = Linear(width, 2 * width)
        self.head = Linear(width, inputs)

    @property
    def device(self) -> torch.device:
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in (autocast aside)."""
        return self.positions.dtype

    def initialise(self, *, gamma: float = 0.0, head: float = 0.0) -> None:
        """Branches scaled by `gamma` and the head by `head`: at 0 the model starts as the identity (AdaLN-zero)."""
        width = self.config.width
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                trunc_normal_(module.weight, std=(1 / (3 * width)) ** 0.5)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        trunc_normal_(self.positions, std=(1 / (3 * width)) ** 0.5)
        with torch.no_grad():
            self.head.weight.mul_(head)
            for block in self.blocks:
                assert block.modulation is not None
                rows = block.modulation.weight.unflatten(0, (ROWS, -1))
                rows[:2].mul_(gamma)
                rows[2:].mul_(0.5)

    def forward(self, noisy: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        """Noise of noisy latents (B, c, h, w) at times (B,) of classes (B,), (B, c, h, w) float32."""
        p = self.config.patch
        waves = frequencies(times).to(self.dtype)
        condition_BC = self.time_embedding(waves) + self.class_embedding(classes)
        x_BLC = self.word_embedding(F.pixel_unshuffle(noisy.to(self.dtype), p).flatten(2).transpose(1, 2))
        x_BLC = x_BLC + self.positions
        groups = [(slice(0, self.config.tokens), None)]
        for block in self.blocks:
            rows = block.rows(condition_BC, None)
            if self.checkpointing and self.training:
                x_BLC = checkpoint(block, x_BLC, rows, groups=groups, use_reentrant=False)
            else:
                x_BLC = block(x_BLC, rows, groups=groups)
        scale, shift = self.head_modulation(F.silu(condition_BC)).unflatten(1, (2, -1)).float().unsqueeze(2).unbind(1)
        read = modulate(x_BLC.float(), scale, shift)
        noise = self.head(read.to(self.head.bias.dtype)).float()
        height, width = (side // p for side in self.schedule.final)
        return F.pixel_shuffle(noise.transpose(1, 2).unflatten(2, (height, width)), p)


def frequencies(times: Tensor) -> Tensor:
    """Sines and cosines of times (B,), (B, FREQUENCIES) float32, periods from 1 to 10,000 times 2 pi."""
    half = FREQUENCIES // 2
    rates = torch.exp(torch.arange(half, device=times.device) * (-math.log(10_000) / half))
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)
