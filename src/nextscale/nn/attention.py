"""Self-attention with an explicit key-value cache and optional QK normalisation.

Shapes: B batch, H heads, L queries, S keys, D head width (64), C = H * D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn import HEAD_WIDTH
from nextscale.nn.linear import Linear

Group = tuple[slice, Tensor | None]
"""Positions of a run of queries, and where they see keys up to its end, (l, end) bool; None is everywhere."""

MAX_LOG_SCALE = math.log(100)


class KeyValueCache:
    """Keys and values of all layers in one preallocated buffer each; an ordinary value, not module state.

    `append` writes the new positions of a layer and returns all positions so far; `advance` moves the
    end once every layer has written.
    """

    def __init__(
        self, *, layers: int, batch: int, heads: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (layers, batch, heads, length, HEAD_WIDTH)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.end = 0

    def append(self, layer: int, key_BHLD: Tensor, value_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        end = self.end + key_BHLD.shape[2]
        self.keys[layer, :, :, self.end : end] = key_BHLD
        self.values[layer, :, :, self.end : end] = value_BHLD
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, length: int) -> None:
        self.end += length


def by_hand(tensor: Tensor) -> bool:
    """Whether our own gradients are used: in training on CPU, where autograd's cost many passes over memory."""
    return tensor.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def attend(query_BHLD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor, mask_LS: Tensor | None, scale: float) -> Tensor:
    """Softmax attention -> (B, H, L, D). `mask_LS` is True where a query sees a key; None sees all.

    On CPU, two products around a softmax replace torch's fused kernel for bf16, which it computes at a tenth of the
    products' rate.
    """
    plain = query_BHLD.device.type == "cpu" and query_BHLD.dtype == torch.bfloat16 and mask_LS is None
    if plain and not torch.is_grad_enabled():
        query_BHLD = query_BHLD if scale == 1 else query_BHLD * scale
        return (query_BHLD @ key_BHSD.transpose(-2, -1)).softmax(dim=-1) @ value_BHSD
    return F.scaled_dot_product_attention(query_BHLD, key_BHSD, value_BHSD, attn_mask=mask_LS, scale=scale)


def attend_in_groups(
    query_BHLD: Tensor, key_BHLD: Tensor, value_BHLD: Tensor, groups: Sequence[Group], scale: float
) -> Tensor:
    """Block-wise causal attention -> (B, H, L, D): each group's queries against the keys up to its end.

    Nothing is computed that the mask would throw away but inside groups of several scales.
    """
    if by_hand(query_BHLD):
        query_BHLD = query_BHLD if scale == 1 else query_BHLD * scale
        return GroupedAttention.apply(query_BHLD, key_BHLD, value_BHLD, groups)  # pyright: ignore[reportReturnType]
    parts = [
        attend(query_BHLD[:, :, span], key_BHLD[:, :, : span.stop], value_BHLD[:, :, : span.stop], mask_LS, scale)
        for span, mask_LS in groups
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class GroupedAttention(torch.autograd.Function):
    """`attend_in_groups` with gradients on CPU, where torch's fused kernel is slow backwards.

    Autograd over slices of keys and values would fill, copy and add whole tensors for each group; here a group's
    gradients are added where they belong. Products are in the inputs' type; each softmax is computed in float32.
    """

    @staticmethod
    def forward(ctx: Any, query_BHLD: Tensor, key_BHLD: Tensor, value_BHLD: Tensor, groups: Sequence[Group]) -> Tensor:
        """Queries come scaled."""
        query, key, value = (tensor.contiguous() for tensor in (query_BHLD, key_BHLD, value_BHLD))
        mixed = torch.empty_like(query)
        shares = []
        for span, mask_LS in groups:
            scores_BHLS = query[:, :, span] @ key[:, :, : span.stop].transpose(-2, -1)
            if mask_LS is not None:
                scores_BHLS.masked_fill_(~mask_LS, -torch.inf)
            shares.append(scores_BHLS.softmax(dim=-1))
            mixed[:, :, span] = shares[-1] @ value[:, :, : span.stop]
        ctx.spans = [span for span, _ in groups]
        ctx.save_for_backward(query, key, value, *shares)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of queries, keys and values."""
        query, key, value, *shares = ctx.saved_tensors
        given = gradients[0].contiguous()
        to_query = torch.empty_like(query)
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        for span, shares_BHLS in reversed(list(zip(ctx.spans, shares, strict=True))):
            seen, mine = slice(0, span.stop), given[:, :, span]
            to_value[:, :, seen] += shares_BHLS.transpose(-2, -1) @ mine
            to_shares_BHLS = mine @ value[:, :, seen].transpose(-2, -1)
            to_scores_BHLS = torch.ops.aten._softmax_backward_data(to_shares_BHLS, shares_BHLS, -1, query.dtype)
            to_query[:, :, span] = to_scores_BHLS @ key[:, :, seen]
            to_key[:, :, seen] += to_scores_BHLS.transpose(-2, -1) @ query[:, :, span]
        return to_query, to_key, to_value, None


def unit_heads(qkv_BL3HD: Tensor, factor_H11: Tensor) -> tuple[Tensor, Tensor]:
    """Queries of length `factor_H11` and keys of length 1, each (B, H, L, D) in float32 (QK normalisation)."""
    query, key = F.normalize(qkv_BL3HD[:, :, :2].float(), dim=-1).permute(2, 0, 3, 1, 4)
    return query * factor_H11, key


class UnitHeads(torch.autograd.Function):
    """`unit_heads` and the values, laid out for products and rounded to the inputs' type, with gradients by hand."""

    @staticmethod
    def forward(ctx: Any, qkv_BL3HD: Tensor, factor_H11: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        norms = torch.linalg.vector_norm(qkv_BL3HD[:, :, :2], dim=-1, keepdim=True, dtype=factor_H11.dtype)
        norms.clamp_min_(1e-12)
        ctx.save_for_backward(qkv_BL3HD, norms, factor_H11)
        lengths = factor_H11.view(-1, 1), 1.0
        query, key = (
            (qkv_BL3HD[:, :, i] * (length / norms[:, :, i])).to(qkv_BL3HD.dtype).transpose(1, 2).contiguous()
            for i, length in enumerate(lengths)
        )
        return query, key, qkv_BL3HD[:, :, 2].transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """With u = x / |x|: d(f u)/dx = f / |x| (1 - u u^T), and d(f u)/df = u."""
        qkv_BL3HD, norms, factor_H11 = ctx.saved_tensors
        to_qkv = torch.empty_like(qkv_BL3HD)
        to_qkv[:, :, 2] = gradients[2].transpose(1, 2)
        to_factor = torch.zeros_like(factor_H11)
        for i, given_BHLD in enumerate(gradients[:2]):
            given, vectors, norm = given_BHLD.transpose(1, 2), qkv_BL3HD[:, :, i], norms[:, :, i]
            along = torch.mul(given.to(norm.dtype), vectors).sum(dim=-1, keepdim=True) / norm
            length: Tensor | float = 1.0
            if i == 0:
                to_factor = along.sum(dim=(0, 1)).view_as(factor_H11)
                length = factor_H11.view(-1, 1)
            to_qkv[:, :, i] = given * (length / norm) - vectors * (along * length / norm.square())
        return to_qkv, to_factor


class SelfAttention(nn.Module):
    """Multi-head self-attention (B, L, C) -> (B, L, C).

    With QK normalisation, queries and keys are unit vectors and each head learns its softmax scale,
    exp(min(s, ln 100)) with s = ln 4 at the start; without, the scale is 0.25 / sqrt(64).
    Keys have no bias.
    """

    def __init__(self, heads: int, *, normalise: bool) -> None:
        super().__init__()
        width = heads * HEAD_WIDTH
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(4.0))) if normalise else None
        self.proj = Linear(width, width)

    def project(self, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """Queries, keys and values, each (B, H, L, D), and the factor of their products before the softmax."""
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        qkv = self.qkv(x_BLC, bias).unflatten(-1, (3, self.heads, HEAD_WIDTH))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if self.log_scale is None:
            return query, key, value, 0.25 / math.sqrt(HEAD_WIDTH)
        factor_H11 = self.log_scale.clamp_max(MAX_LOG_SCALE).exp()
        if by_hand(qkv):
            query, key, value = UnitHeads.apply(qkv, factor_H11)  # pyright: ignore[reportGeneralTypeIssues]
        else:
            query, key = unit_heads(qkv, factor_H11)
        return query.to(value.dtype), key, value, 1.0

    def forward(
        self,
        x_BLC: Tensor,
        *,
        groups: Sequence[Group] = (),
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        batch, length, width = x_BLC.shape
        query, key, value, softmax_scale = self.project(x_BLC)
        if cache is not None:
            mixed = attend(query, *cache.append(layer, key, value), None, softmax_scale)
        else:
            groups = groups or [(slice(0, length), None)]
            mixed = attend_in_groups(query, key.to(value.dtype), value, groups, softmax_scale)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
