"""Vision transformers between images and maps of latents (ViT-VQGAN, arXiv 2110.04627, section 3.1).

Shapes: B batch, (H, W) pixels, (h, w) patches, L = h w of them, C width, N heads, D head width (64).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextscale.nn import HEAD_WIDTH
from nextscale.nn.attention import attend_in_groups
from nextscale.nn.cpu import Group

ALL: tuple[Group, ...] = ((slice(None), slice(None), None),)
"""Every position sees every other."""


def sine_positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sines and cosines of each patch's column, then of its row, (L, channels) float32 for any grid.

    Frequencies fall from 1 to nearly 1 / 10,000, a quarter of the channels each (public code of the re-implementation).
    """
    quarter = channels // 4
    frequencies = 10_000 ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    rows, columns = (torch.arange(side, device=device)[:, None] * frequencies for side in (height, width))
    waves = [torch.cat([angles.sin(), angles.cos()], dim=1) for angles in (columns, rows)]
    across = waves[0].expand(height, -1, -1), waves[1][:, None].expand(-1, width, -1)
    return torch.cat(across, dim=2).flatten(0, 1)


class ViTBlock(nn.Module):
    """x += attention(norm(x)); x += feed_forward(norm(x)), (B, L, C) -> same. The feed-forward has tanh, not GELU.

    Heads are 64 wide whatever the width; queries, keys and values have no bias.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        inner = heads * HEAD_WIDTH
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.Tanh(), nn.Linear(4 * width, width))

    def forward(self, x_BLC: Tensor) -> Tensor:
        qkv_BL3ND = self.qkv(self.norm1(x_BLC)).unflatten(-1, (3, self.heads, HEAD_WIDTH))
        query, key, value = qkv_BL3ND.permute(2, 0, 3, 1, 4)
        mixed_BNLD = attend_in_groups(query, key, value, ALL, HEAD_WIDTH**-0.5)
        x_BLC = x_BLC + self.proj(mixed_BNLD.transpose(1, 2).flatten(2))
        return x_BLC + self.feed_forward(self.norm2(x_BLC))


class ViT(nn.Module):
    """Positions, blocks and a last normalisation: a map (B, C, h, w) of any size -> same."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ViTBlock(width, heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        _, channels, height, width = features.shape
        positions_LC = sine_positions(height, width, channels, features.device)
        x_BLC = features.flatten(2).transpose(1, 2) + positions_LC.to(features.dtype)
        for block in self.blocks:
            x_BLC = block(x_BLC)
        return self.norm_out(x_BLC).transpose(1, 2).unflatten(2, (height, width))


class ViTEncoder(nn.Module):
    """(B, 3, H, W) -> (B, C, h, w): a linear map of each patch, then the transformer."""

    def __init__(self, width: int, depth: int, heads: int, *, patch: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, patch, stride=patch)
        self.vit = ViT(width, depth, heads)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self.vit(self.conv_in(images))


class ViTDecoder(nn.Module):
    """(B, C, h, w) -> (B, 3, H, W), unclamped: the transformer, then a linear map to the pixels of each patch."""

    def __init__(self, width: int, depth: int, heads: int, *, patch: int) -> None:
        super().__init__()
        self.vit = ViT(width, depth, heads)
        self.conv_out = nn.Conv2d(width, 3 * patch**2, 1)
        self.tail = nn.PixelShuffle(patch)
        self.apply(initialise)

    def forward(self, features: Tensor) -> Tensor:
        return self.tail(self.conv_out(self.vit(features)))


def initialise(module: nn.Module) -> None:
    """Xavier's uniform weights, over all inputs of an output, and biases of 0."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
