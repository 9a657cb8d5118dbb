"""Transformer block with adaptive layer normalisation (AdaLN-zero; paper, section 3.3 and DiT).

Shapes: B batch, L tokens, C width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn import HEAD_WIDTH
from nextscale.nn.attention import CrossAttention, KeyValueCache, SelfAttention
from nextscale.nn.cpu import Group
from nextscale.nn.cuda import uses_kernels
from nextscale.nn.linear import Linear

ROWS = 6
"""Modulation rows of a block: gamma1, gamma2, scale1, scale2, shift1, shift2."""

OpenSum = tuple[Tensor, Tensor, Tensor]
"""x (B, L, C), branch (B, L, C) and gamma (B, 1, C) of a sum x + gamma branch that whoever reads it carries out."""


def modulate(x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor, dtype: torch.dtype) -> Tensor:
    """LayerNorm without weights (eps 1e-6), times 1 + scale, plus shift, in the inputs' type; given in `dtype`."""
    if uses_kernels(x_BLC):
        from nextscale.nn import kernels

        return kernels.modulate(x_BLC, scale_B1C, shift_B1C, dtype)
    normed = F.layer_norm(x_BLC, x_BLC.shape[-1:], eps=1e-6).to(x_BLC.dtype)
    return torch.addcmul(shift_B1C, normed, scale_B1C + 1).to(dtype)


def gated(x_BLC: Tensor, branch_BLC: Tensor, gamma_B1C: Tensor) -> Tensor:
    """x + gamma branch, in the type of x."""
    if uses_kernels(x_BLC):
        from nextscale.nn import kernels

        return kernels.gated(x_BLC, branch_BLC, gamma_B1C)
    return torch.addcmul(x_BLC, branch_BLC, gamma_B1C)


def gated_modulate(
    x_BLC: Tensor, branch_BLC: Tensor, gamma_B1C: Tensor, scale_B1C: Tensor, shift_B1C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`gated`, and `modulate` of it."""
    if uses_kernels(x_BLC):
        from nextscale.nn import kernels

        return kernels.gated_modulate(x_BLC, branch_BLC, gamma_B1C, scale_B1C, shift_B1C, dtype)
    x_BLC = gated(x_BLC, branch_BLC, gamma_B1C)
    return x_BLC, modulate(x_BLC, scale_B1C, shift_B1C, dtype)


def summed_and_modulated(
    x_BLC: Tensor | OpenSum, scale_B1C: Tensor, shift_B1C: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x, a sum that is still open carried out, and `modulate` of it."""
    if isinstance(x_BLC, Tensor):
        return x_BLC, modulate(x_BLC, scale_B1C, shift_B1C, dtype)
    return gated_modulate(*x_BLC, scale_B1C, shift_B1C, dtype)


class DropPath(nn.Module):
    """Drops the branch of an image with probability `rate` in training (stochastic depth)."""

    rates: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.drops = rate > 0
        # A tensor, so that blocks that differ in their rate alone share a compiled graph. On the CPU even where a model
        # is being built on another device, such as meta.
        rates = torch.tensor([rate, 1 - rate], dtype=torch.float32, device="cpu")
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, x_BLC: Tensor) -> Tensor:
        if not self.training or not self.drops:
            return x_BLC
        dropped, kept = self.rates
        keep = torch.rand(x_BLC.shape[0], 1, 1, device=x_BLC.device) >= dropped
        return x_BLC * (keep / kept).to(x_BLC.dtype)


class FeedForward(nn.Sequential):
    """Linear to 4 C with GELU (tanh), Linear to C. The empty layer keeps the weights' names, `0` and `2`."""

    def __init__(self, width: int) -> None:
        super().__init__(Linear(width, 4 * width, gelu=True), nn.Identity(), Linear(4 * width, width))


class AdaLNBlock(nn.Module):
    """x += gamma1 attn(mod1(x)); x += gamma2 ffn(mod2(x)), with six modulation rows from the condition.

    A block with a projection of its `own` computes them. Others have a learned offset, which is added to the projection
    that all blocks share, if there is one. With a `text_width`, x += cross(x, text) stands between the two sums.
    """

    forward_methods = ("rows", "context")
    "Methods beside `forward` that read weights; sharded training gathers the weights before they run."

    def __init__(self, heads: int, *, normalise: bool, drop_path: float, own: bool = True, text_width: int = 0) -> None:
        super().__init__()
        width = heads * HEAD_WIDTH
        self.attention = SelfAttention(heads, normalise=normalise)
        self.feed_forward = FeedForward(width)
        self.drop_path = DropPath(drop_path)
        self.modulation = Linear(width, ROWS * width) if own else None
        self.offset = None if own else nn.Parameter(torch.empty(ROWS, width))
        self.cross = CrossAttention(heads, text_width) if text_width else None

    @property
    def dtype(self) -> torch.dtype:
        """What matrices are multiplied in (autocast aside); what is added up may be in float32."""
        return self.attention.proj.bias.dtype

    def rows(self, class_BC: Tensor, shared_B6C: Tensor | None) -> Tensor:
        """Modulation rows (B, 6, C) from the condition's vector alone."""
        if self.offset is not None:
            return self.offset.expand(len(class_BC), -1, -1) if shared_B6C is None else shared_B6C + self.offset
        assert self.modulation is not None
        return self.modulation(F.silu(class_BC)).unflatten(1, (ROWS, -1))

    def context(self, tokens_BTW: Tensor, mask_BT: Tensor) -> tuple[Tensor, ...]:
        """What `forward` takes of tokens and their mask: keys, values and mask where it attends to them."""
        if self.cross is None:
            return tokens_BTW, mask_BT
        return *self.cross.keys_and_values(tokens_BTW), mask_BT

    def forward(
        self,
        x_BLC: Tensor,
        rows_B6C: Tensor,
        *,
        groups: Sequence[Group] = (),
        cache: KeyValueCache | None = None,
        layer: int = 0,
        context: tuple[Tensor, ...] = (),
    ) -> Tensor:
        return gated(*self.open(x_BLC, rows_B6C, groups=groups, cache=cache, layer=layer, context=context))

    @property
    def may_stay_open(self) -> bool:
        """Whether `open` may replace a call: not where subclasses (as sharding makes) or hooks add to it."""
        return type(self) is AdaLNBlock and not (self._forward_hooks or self._forward_pre_hooks)

    def open(
        self,
        x_BLC: Tensor | OpenSum,
        rows_B6C: Tensor,
        *,
        groups: Sequence[Group] = (),
        cache: KeyValueCache | None = None,
        layer: int = 0,
        context: tuple[Tensor, ...] = (),
    ) -> OpenSum:
        """`forward` without its last sum, which the next block can carry out together with its normalisation."""
        dtype = x_BLC.dtype if isinstance(x_BLC, Tensor) else x_BLC[0].dtype
        gamma1, gamma2, scale1, scale2, shift1, shift2 = rows_B6C.to(dtype).unsqueeze(2).unbind(1)
        x_BLC, read_BLC = summed_and_modulated(x_BLC, scale1, shift1, self.dtype)
        mixed_BLC = self.drop_path(self.attention(read_BLC, groups=groups, cache=cache, layer=layer))
        if self.cross is None:
            x_BLC, read_BLC = gated_modulate(x_BLC, mixed_BLC, gamma1, scale2, shift2, self.dtype)
        else:
            attended_BLC = gated(x_BLC, mixed_BLC, gamma1)
            x_BLC = torch.add(attended_BLC, self.drop_path(self.cross(attended_BLC, *context)))
            read_BLC = modulate(x_BLC, scale2, shift2, self.dtype)
        return x_BLC, self.drop_path(self.feed_forward(read_BLC)), gamma2
