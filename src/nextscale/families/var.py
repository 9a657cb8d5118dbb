"""The next-scale transformer: latents of coarser scales and a class -> logits of every token map.

Paper, sections 3.1 and 3.3. No tokenizer inside: the model reads latents (B, l, latent_channels).
Shapes: B batch, L tokens of the sequence, l tokens of one scale, C width, V codebook entries.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.families.config import VARConfig as VARConfig
from nextscale.nn.attention import KeyValueCache
from nextscale.nn.block import modulate
from nextscale.nn.linear import Linear
from nextscale.nn.transformer import Condition, Transformer, TransformerConfig


class VAR(Transformer):
    """The transformer over scales, with a head that reads them through AdaLN."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.head_modulation = Linear(config.width, 2 * config.width) if config.adaln else None
        self.head_offset = None if config.adaln else nn.Parameter(torch.empty(2, config.width))
        self.head = Linear(config.width, config.codebook_size)

    def initialise(self, *, gamma: float = 1e-3, head: float = 0.02) -> None:
        """As `Transformer`; the head x `head`, its modulation x 0.5."""
        super().initialise(gamma=gamma)
        with torch.no_grad():
            self.head.weight.mul_(head)
            if self.head_modulation is not None:
                self.head_modulation.weight.mul_(0.5)
            if self.head_offset is not None:
                self.head_offset.zero_()

    def condition(self, classes: Tensor) -> Condition:
        """Start token and modulation rows of class ids (B,), the head's too; unconditional id included."""
        condition = super().condition(classes)
        if self.head_offset is not None:
            return replace(condition, head_rows_B2C=self.head_offset.expand(len(classes), -1, -1))
        assert self.head_modulation is not None
        head_rows = self.head_modulation(F.silu(condition.start_BC)).unflatten(1, (2, -1))
        return replace(condition, head_rows_B2C=head_rows)

    def head_input(self, x_BLC: Tensor, condition: Condition) -> Tensor:
        """The head's AdaLN, (B, l, C) -> same in float32."""
        assert condition.head_rows_B2C is not None
        scale, shift = condition.head_rows_B2C.float().unsqueeze(2).unbind(1)
        return modulate(x_BLC.float(), scale, shift)

    def classify(self, x_BLC: Tensor) -> Tensor:
        """The head's Linear, (B, l, C) -> (B, l, V) float32."""
        return self.head(x_BLC.to(self.head.bias.dtype)).float()

    def forward(self, latents: Tensor, classes: Tensor) -> Tensor:
        """Teacher forcing: latents of scales 2..K (B, L - l_1, latent_channels), (B,) -> (B, L, V) float32."""
        return self.predict(latents, self.condition(classes))

    def predict(self, latents: Tensor, condition: Condition) -> Tensor:
        """`forward` of what the classes give."""
        return self.classify(self.head_input(self.hidden(latents, condition), condition))

    def step(self, scale: int, latents: Tensor | None, condition: Condition, cache: KeyValueCache) -> Tensor:
        """What the head's Linear reads at one scale, (B, l, C) float32; its keys and values are added to the cache.

        `classify` makes logits of it. `latents` (B, l, latent_channels) is what coarser scales accumulated; None at
        the first scale.
        """
        return self.head_input(self.advance(scale, latents, condition, cache), condition)
