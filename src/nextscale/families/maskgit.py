"""The masked baseline: MaskGIT (arXiv 2202.04200), all tokens at once, the surest kept step by step.

A single token map; every position sees every other. Masked positions read a learned vector, the others their code.
Shapes: B batch, L tokens, C width, V codebook entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from nextscale.families.config import MaskGITConfig
from nextscale.families.var import VAR
from nextscale.nn.transformer import Condition


def masked_share(ratio: float) -> float:
    """Cosine schedule: the share of tokens that is masked when `ratio` of the way is done (section 3.3)."""
    return math.cos(ratio * math.pi / 2)


class MaskGIT(VAR):
    """VAR's blocks and head over one part, the whole map, which is read masked."""

    config: MaskGITConfig

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__(config)
        self.masked = nn.Parameter(torch.empty(config.width))

    def initialise(self, *, gamma: float = 1e-3, head: float = 0.02) -> None:
        """As VAR; the masked vector as an embedding."""
        super().initialise(gamma=gamma, head=head)
        trunc_normal_(self.masked, std=(1 / (3 * self.config.width)) ** 0.5)

    def forward(self, latents: Tensor, masked: Tensor, classes: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Codes' embeddings (B, L, latent_channels), which are masked (B, L) bool, (B,) -> (B, L, V) float32."""
        return self.predict_masked(latents, masked, self.condition(classes))

    def predict_masked(self, latents: Tensor, masked: Tensor, condition: Condition) -> Tensor:
        """`forward` of what the classes give."""
        words = self.word_embedding(latents.to(self.dtype))
        words = torch.where(masked[..., None], self.masked.to(words.dtype), words)
        placed = self.embed(None, condition, slice(0, self.sequence.length))
        x_BLC = self.through_blocks(placed + words, condition)
        return self.classify(self.head_input(x_BLC, condition))
