"""Transformer block and head with adaptive layer normalisation (AdaLN-zero; paper, section 3.3 and DiT).

Shapes: B batch, L tokens, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn import HEAD_WIDTH
from nextscale.nn.attention import KeyValueCache, SelfAttention
from nextscale.nn.cpu import Group
from nextscale.nn.linear import Linear

ROWS = 6
"""Modulation rows of a block: gamma1, gamma2, scale1, scale2, shift1, shift2."""


def modulate(x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor) -> Tensor:
    """LayerNorm without affine (eps 1e-6), then scale and shift."""
    normed = F.layer_norm(x_BLC, x_BLC.shape[-1:], eps=1e-6).to(x_BLC.dtype)
    return torch.addcmul(shift_B1C, normed, scale_B1C + 1)


class DropPath(nn.Module):
    """Drops the whole branch of an image with probability `rate` in training (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BLC: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x_BLC
        keep = torch.rand(x_BLC.shape[0], 1, 1, device=x_BLC.device) >= self.rate
        return x_BLC * (keep / (1 - self.rate)).to(x_BLC.dtype)


class FeedForward(nn.Sequential):
    """Linear x4 with GELU (tanh), Linear. The empty layer between them keeps the weights' names, `0` and `2`."""

    def __init__(self, width: int) -> None:
        super().__init__(Linear(width, 4 * width, gelu=True), nn.Identity(), Linear(4 * width, width))


class AdaLNBlock(nn.Module):
    """x += gamma1 attn(mod1(x)); x += gamma2 ffn(mod2(x)), the six rows given by the class.

    Without a projection of its `own`, the rows are a learned offset, added to one projection shared by all blocks
    where there is one.
    """

    forward_methods = ("rows",)
    "What is called beside `forward` and reads weights, for those who gather weights when they are needed."

    def __init__(self, heads: int, *, normalise: bool, drop_path: float, own: bool = True) -> None:
        super().__init__()
        width = heads * HEAD_WIDTH
        self.attention = SelfAttention(heads, normalise=normalise)
        self.feed_forward = FeedForward(width)
        self.drop_path = DropPath(drop_path)
        self.modulation = Linear(width, ROWS * width) if own else None
        self.offset = None if own else nn.Parameter(torch.empty(ROWS, width))

    def rows(self, class_BC: Tensor, shared_B6C: Tensor | None) -> Tensor:
        """Modulation rows (B, 6, C) of the class embedding; they depend on nothing else."""
        if self.offset is not None:
            return self.offset.expand(len(class_BC), -1, -1) if shared_B6C is None else shared_B6C + self.offset
        assert self.modulation is not None
        return self.modulation(F.silu(class_BC)).unflatten(1, (ROWS, -1))

    def forward(
        self,
        x_BLC: Tensor,
        rows_B6C: Tensor,
        *,
        groups: Sequence[Group] = (),
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        gamma1, gamma2, scale1, scale2, shift1, shift2 = rows_B6C.to(x_BLC.dtype).unsqueeze(2).unbind(1)
        mixed = self.attention(modulate(x_BLC, scale1, shift1), groups=groups, cache=cache, layer=layer)
        x_BLC = torch.addcmul(x_BLC, self.drop_path(mixed), gamma1)
        return torch.addcmul(x_BLC, self.drop_path(self.feed_forward(modulate(x_BLC, scale2, shift2))), gamma2)
