"""The text encoder of a model of prompts, trained along with it: a few blocks over words, or over another's features.

Shapes: B prompts, T tokens, N parts of a token, W channels of a token, C width of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_

from nextscale.nn import HEAD_WIDTH, TextConfig
from nextscale.nn.attention import SelfAttention
from nextscale.nn.block import FeedForward
from nextscale.nn.cpu import Group
from nextscale.nn.linear import Linear


class TextBlock(nn.Module):
    """x += attention(norm(x)); x += feed_forward(norm(x)), where padding is not seen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width // HEAD_WIDTH, normalise=True)
        self.feed_forward = FeedForward(width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x_BTW: Tensor, group: Group) -> Tensor:
        dtype = self.attention.proj.bias.dtype
        first, second = self.norms
        x_BTW = x_BTW + self.attention(first(x_BTW).to(dtype), groups=[group])
        return x_BTW + self.feed_forward(second(x_BTW).to(dtype))


class TextEncoder(nn.Module):
    """Prompts -> a vector of each, and tokens that blocks attend to.

    A learned token stands before those of the prompt. What becomes of it is the vector's source, and an empty prompt
    has it alone: this is what a model without a prompt is conditioned on.
    """

    def __init__(self, config: TextConfig, width: int) -> None:
        super().__init__()
        inner = config.width
        self.words = None if config.encoder else nn.Embedding(config.rows + 1, inner)
        self.features = Linear(config.features, inner) if config.encoder else None
        self.whole = nn.Parameter(torch.empty(inner))
        self.positions = nn.Parameter(torch.empty(config.tokens, inner))
        self.norm, self.last = nn.LayerNorm(inner), nn.LayerNorm(inner)
        self.blocks = nn.ModuleList(TextBlock(inner) for _ in range(config.blocks))
        self.pooled = Linear(inner, width)

    def initialise(self) -> None:
        """Draw initial weights from torch's global generator: the published rule at this encoder's own width."""
        std = (1 / (3 * len(self.whole))) ** 0.5
        for module in self.blocks.modules():
            if isinstance(module, Linear):
                trunc_normal_(module.weight, std=std)
        for parameter in (self.whole, self.positions):
            trunc_normal_(parameter, std=0.005)
        if self.words is not None:
            # Small, as a norm follows, so that a rare word's few steps move it; a mean of several exceeds its position.
            nn.init.normal_(self.words.weight, std=0.02)
        if self.features is not None:
            trunc_normal_(self.features.weight, std=self.features.in_features**-0.5)

    def forward(self, tokens: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the table (B, T, N) int64, 0 for none, or features (B, T, F) -> (B, C), (B, 1 + T, W), its mask."""
        if self.words is not None:
            parts = tokens.flatten(0, 1)
            x_BTW = F.embedding_bag(parts, self.words.weight, mode="mean", padding_idx=0).unflatten(0, mask_BT.shape)
        else:
            assert self.features is not None
            x_BTW = self.features(tokens.to(self.features.bias.dtype))
        x_BTW = x_BTW.to(self.positions.dtype) + self.positions[: x_BTW.shape[1]]
        x_BTW = self.norm(torch.cat([self.whole.to(x_BTW.dtype).expand(len(x_BTW), 1, -1), x_BTW], dim=1))
        mask_BT = F.pad(mask_BT, (1, 0), value=True)
        whole = slice(0, x_BTW.shape[1])
        for block in self.blocks:
            x_BTW = block(x_BTW, (whole, whole, mask_BT[:, None, None]))
        x_BTW = self.last(x_BTW)
        return self.pooled(x_BTW[:, 0]), x_BTW, mask_BT
