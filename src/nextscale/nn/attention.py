"""Self-attention with a key-value cache and optional QK normalisation, and attention to the tokens of a text.

Shapes: B batch, H heads, L queries, S keys, D head width (64), C = H * D, T tokens of a text, W their channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn import HEAD_WIDTH
from nextscale.nn.cpu import Group, grouped_attention, unit_heads_and_values, use_cpu_backward
from nextscale.nn.cuda import uses_kernels
from nextscale.nn.linear import Linear

MAX_LOG_SCALE = math.log(100)
"""Largest logarithm of a head's softmax scale (official code)."""


class KeyValueCache:
    """Keys and values of every layer, in preallocated buffers; an ordinary value, not module state.

    `append` writes the new positions of a layer and returns all positions so far. `advance` moves the end, once every
    layer has written. Each layer has buffers of its own: torch.compile would copy one of all layers at each of them.
    """

    def __init__(
        self, *, layers: int, batch: int, heads: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        def empty() -> Tensor:
            if device.type == "cuda":  # tokens before heads, as products give them and fused attention leaves them
                return torch.empty(batch, length, heads, HEAD_WIDTH, device=device, dtype=dtype).transpose(1, 2)
            return torch.empty(batch, heads, length, HEAD_WIDTH, device=device, dtype=dtype)

        self.keys = [empty() for _ in range(layers)]
        "Of each layer, (B, H, length, D)."
        self.values = [empty() for _ in range(layers)]
        self.end = 0
        "Positions so far."
        self.parts = 0
        "Parts so far; some of their positions may have been left out."

    def places(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Where the keys and values of the next positions go, each (B, H, length, D)."""
        span = slice(self.end, self.end + length)
        return self.keys[layer][:, :, span], self.values[layer][:, :, span]

    def known(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, the next `length` included."""
        end = self.end + length
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def append(self, layer: int, key_BHLD: Tensor, value_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        length = key_BHLD.shape[2]
        for place, new in zip(self.places(layer, length), (key_BHLD, value_BHLD), strict=True):
            place.copy_(new)
        return self.known(layer, length)

    def advance(self, length: int) -> None:
        self.end += length
        self.parts += 1

    def rewind(self, length: int) -> None:
        """Forget the last part, of `length` positions: the next one takes its place."""
        self.end -= length
        self.parts -= 1

    def select(self, images: slice) -> KeyValueCache:
        """The cache of some of the images; it writes into the same buffers."""
        chosen = copy.copy(self)
        chosen.keys, chosen.values = ([each[images] for each in buffers] for buffers in (self.keys, self.values))
        return chosen


def attend(query_BHLD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor, mask_LS: Tensor | None, scale: float) -> Tensor:
    """Softmax attention -> (B, H, L, D). `mask_LS` is True where a query sees a key; None sees all.

    For bf16 inference on CPU, torch's fused kernel has a tenth of the speed of two products around a softmax.
    """
    plain = mask_LS is None and not torch.is_grad_enabled()
    if plain and key_BHSD.shape[2] == 1:  # it has all the weight
        return value_BHSD.expand_as(query_BHLD).contiguous()
    if plain and query_BHLD.device.type == "cpu" and query_BHLD.dtype == torch.bfloat16:
        query_BHLD = query_BHLD if scale == 1 else query_BHLD * scale
        return (query_BHLD @ key_BHSD.transpose(-2, -1)).softmax(dim=-1) @ value_BHSD
    return F.scaled_dot_product_attention(query_BHLD, key_BHSD, value_BHSD, attn_mask=mask_LS, scale=scale)


def attend_in_groups(
    query_BHLD: Tensor, key_BHLD: Tensor, value_BHLD: Tensor, groups: Sequence[Group], scale: float
) -> Tensor:
    """Attention -> (B, H, L, D): each group's queries see its keys.

    Others, which a mask of all positions would exclude, are left out of the products.
    """
    if use_cpu_backward(query_BHLD):
        query_BHLD = query_BHLD if scale == 1 else query_BHLD * scale
        return grouped_attention(query_BHLD, key_BHLD, value_BHLD, groups)
    parts = [
        attend(query_BHLD[:, :, span], key_BHLD[:, :, seen], value_BHLD[:, :, seen], mask_LS, scale)
        for span, seen, mask_LS in groups
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def unit_heads(qkv_BL3HD: Tensor, factor_H11: Tensor) -> tuple[Tensor, Tensor]:
    """Queries of length `factor_H11` and keys of length 1, each (B, H, L, D) in float32 (QK normalisation)."""
    query, key = F.normalize(qkv_BL3HD[:, :, :2].float(), dim=-1).permute(2, 0, 3, 1, 4)
    return query * factor_H11, key


class SelfAttention(nn.Module):
    """Multi-head self-attention (B, L, C) -> (B, L, C).

    With QK normalisation, queries and keys are unit vectors and each head learns its softmax scale, exp(min(s, ln 100))
    with s = ln 4 at the start; without, the scale is 0.25 / sqrt(64). Keys have no bias.
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

    @property
    def softmax_scale(self) -> float:
        """Factor of the products of queries and keys."""
        return 0.25 / math.sqrt(HEAD_WIDTH) if self.log_scale is None else 1.0

    def project(self, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, H, L, D)."""
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias]).to(x_BLC.dtype)
        qkv = self.qkv(x_BLC, bias).unflatten(-1, (3, self.heads, HEAD_WIDTH))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if self.log_scale is None:
            return query, key, value
        factor_H11 = self.log_scale.clamp_max(MAX_LOG_SCALE).exp()
        if use_cpu_backward(qkv):
            query, key, value = unit_heads_and_values(qkv, factor_H11)
        else:
            query, key = unit_heads(qkv, factor_H11)
        return query.to(value.dtype), key, value

    def heads_so_far(self, x_BLC: Tensor, cache: KeyValueCache | None, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """`project`, the keys and values with those in the cache, to which the new ones are added."""
        if not uses_kernels(x_BLC):
            query, key, value = self.project(x_BLC)
            key, value = (key.to(value.dtype), value) if cache is None else cache.append(layer, key, value)
            return query, key, value
        from nextscale.nn import kernels

        batch, length, _ = x_BLC.shape
        if cache is None:
            key, value = x_BLC.new_empty(2, batch, length, self.heads, HEAD_WIDTH).transpose(2, 3)
        else:
            key, value = cache.places(layer, length)
        vectors = self.query_bias, self.value_bias, self.log_scale
        query = kernels.split_heads(self.qkv(x_BLC), *vectors, key, value, max_log_scale=MAX_LOG_SCALE)
        if cache is not None:
            key, value = cache.known(layer, length)
        return query, key, value

    def forward(
        self, x_BLC: Tensor, *, groups: Sequence[Group] = (), cache: KeyValueCache | None = None, layer: int = 0
    ) -> Tensor:
        batch, length, width = x_BLC.shape
        query, key, value = self.heads_so_far(x_BLC, cache, layer)
        if cache is not None and not groups:
            mixed = attend(query, key, value, None, self.softmax_scale)
        else:
            groups = groups or [(slice(0, length), slice(0, length), None)]
            mixed = attend_in_groups(query, key, value, groups, self.softmax_scale)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class CrossAttention(nn.Module):
    """Attention of positions (B, L, C) to the tokens of a text (B, T, W), without QK normalisation (as in Infinity).

    Its output is 0 at first. Keys and values are made once per image, whatever is computed at its positions.
    """

    def __init__(self, heads: int, text_width: int) -> None:
        super().__init__()
        width = heads * HEAD_WIDTH
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.query = Linear(width, width)
        self.key_value = Linear(text_width, 2 * width)
        self.proj = Linear(width, width)

    def initialise(self) -> None:
        """No output, so that a model of classes goes on as it was."""
        nn.init.zeros_(self.proj.weight)

    def keys_and_values(self, tokens_BTW: Tensor) -> tuple[Tensor, Tensor]:
        """Of a text, each (B, H, T, D)."""
        both = self.key_value(tokens_BTW.to(self.proj.bias.dtype)).unflatten(-1, (2, self.heads, HEAD_WIDTH))
        key, value = both.permute(2, 0, 3, 1, 4).contiguous()
        return key, value

    def forward(self, x_BLC: Tensor, key_BHTD: Tensor, value_BHTD: Tensor, mask_BT: Tensor) -> Tensor:
        query = self.query(self.norm(x_BLC).to(self.proj.bias.dtype))
        query = query.unflatten(-1, (self.heads, HEAD_WIDTH)).transpose(1, 2)
        mask, scale = mask_BT[:, None, None], HEAD_WIDTH**-0.5
        if x_BLC.is_cuda:
            mixed = F.scaled_dot_product_attention(query, key_BHTD, value_BHTD, attn_mask=mask, scale=scale)
        else:  # torch's fused kernel is slow for masks of a batch
            scores_BHLT = (query * scale) @ key_BHTD.transpose(-2, -1)
            mixed = scores_BHLT.masked_fill(~mask, -torch.inf).softmax(dim=-1).to(value_BHTD.dtype) @ value_BHTD
        return self.proj(mixed.transpose(1, 2).flatten(2))
