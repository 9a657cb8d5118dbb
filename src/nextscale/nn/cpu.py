"""Explicit gradients of attention for training on CPU, where autograd makes many passes over memory.

Tests hold each function equal to its plain form in `nn.attention`.
Shapes: B batch, H heads, L queries, S keys, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Group = tuple[slice, slice, Tensor | None]
"""Positions of a run of l queries and of s keys, and which of these each query sees, (l, s) bool; None is all."""


def use_cpu_backward(tensor: Tensor) -> bool:
    """Whether the gradients of this file are used: in training on CPU, also under torch.compile."""
    return tensor.device.type == "cpu" and torch.is_grad_enabled()


def grouped_attention(query_BHLD: Tensor, key_BHLD: Tensor, value_BHLD: Tensor, groups: Sequence[Group]) -> Tensor:
    """`nn.attention.attend_in_groups` with scale 1 -> (B, H, L, D)."""
    mixed: Any = GroupedAttention.apply(query_BHLD, key_BHLD, value_BHLD, groups)
    return mixed


def unit_heads_and_values(qkv_BL3HD: Tensor, factor_H11: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`nn.attention.unit_heads` and the values, each (B, H, L, D) in the inputs' type."""
    heads: Any = UnitHeads.apply(qkv_BL3HD, factor_H11)
    return heads


class GroupedAttention(torch.autograd.Function):
    """`grouped_attention` and its gradients; torch's fused kernel is slow backwards on CPU.

    Autograd over slices of keys and values would fill, copy and add whole tensors for each group; here a group's
    gradients are added in place. Products are in the inputs' type; each softmax is computed in float32.
    """

    @staticmethod
    def forward(ctx: Any, query_BHLD: Tensor, key_BHLD: Tensor, value_BHLD: Tensor, groups: Sequence[Group]) -> Tensor:
        query, key, value = (tensor.contiguous() for tensor in (query_BHLD, key_BHLD, value_BHLD))
        mixed = torch.empty_like(query)
        shares = []
        for span, seen, mask_LS in groups:
            scores_BHLS = query[:, :, span] @ key[:, :, seen].transpose(-2, -1)
            if mask_LS is not None:
                scores_BHLS.masked_fill_(~mask_LS, -torch.inf)
            shares.append(scores_BHLS.softmax(dim=-1))
            mixed[:, :, span] = shares[-1] @ value[:, :, seen]
        ctx.spans = [(span, seen) for span, seen, _ in groups]
        ctx.save_for_backward(query, key, value, *shares)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of queries, keys and values."""
        query, key, value, *shares = ctx.saved_tensors
        upstream = gradients[0].contiguous()
        to_query = torch.empty_like(query)
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        for (span, seen), shares_BHLS in reversed(list(zip(ctx.spans, shares, strict=True))):
            mine = upstream[:, :, span]
            to_value[:, :, seen] += shares_BHLS.transpose(-2, -1) @ mine
            to_shares_BHLS = mine @ value[:, :, seen].transpose(-2, -1)
            to_scores_BHLS = torch.ops.aten._softmax_backward_data(to_shares_BHLS, shares_BHLS, -1, query.dtype)
            to_query[:, :, span] = to_scores_BHLS @ key[:, :, seen]
            to_key[:, :, seen] += to_scores_BHLS.transpose(-2, -1) @ query[:, :, span]
        return to_query, to_key, to_value, None


class UnitHeads(torch.autograd.Function):
    """`unit_heads_and_values`, contiguous for products, and its gradients."""

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
        for i, upstream_BHLD in enumerate(gradients[:2]):
            upstream, vectors, norm = upstream_BHLD.transpose(1, 2), qkv_BL3HD[:, :, i], norms[:, :, i]
            along = torch.mul(upstream.to(norm.dtype), vectors).sum(dim=-1, keepdim=True) / norm
            length: Tensor | float = 1.0
            if i == 0:
                to_factor = along.sum(dim=(0, 1)).view_as(factor_H11)
                length = factor_H11.view(-1, 1)
            to_qkv[:, :, i] = upstream * (length / norm) - vectors * (along * length / norm.square())
        return to_qkv, to_factor
