"""What is computed in each exported graph, as modules that torch.onnx can trace.

Maps are sequences in raster order, so that everything between graphs is a product of matrices.
Shapes: B batch, l tokens of one part, P positions before it, C latent channels, D width, V codebook entries, N blocks,
H heads, (H, W) pixels, (h, w) latent grid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn.attention import KeyValueCache, SelfAttention
from nextscale.nn.block import ROWS
from nextscale.nn.transformer import Condition, Transformer
from nextscale.tokenizer.residual import flatten_map
from nextscale.tokenizer.vqvae import VQVAE

TABULATED = 4
"""Rows of modulation are a table of all classes where that has a quarter of the weights that compute them: those may be
int8, the table not."""


class EncoderGraph(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> features before quantisation (B, h w, C)."""

    def __init__(self, tokenizer: VQVAE) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, images: Tensor) -> Tensor:
        return flatten_map(self.tokenizer.features(images))


class DecoderGraph(nn.Module):
    """Accumulated map (B, h w, C) -> images (B, 3, H, W) in [-1, 1]."""

    def __init__(self, tokenizer: VQVAE) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.grid = tokenizer.schedule.final

    def forward(self, accumulated: Tensor) -> Tensor:
        features = accumulated.transpose(1, 2).unflatten(2, self.grid)
        return self.tokenizer.decoder(self.tokenizer.post_quant_conv(features)).clamp(-1, 1)


class GrowingCache(KeyValueCache):
    """Keys and values in one tensor (B, 2 N, H, P, 64), the two of each block side by side; never written into."""

    def __init__(self, known: Tensor) -> None:
        self.before = known
        self.grown: list[Tensor] = []
        self.attention: list[Tensor] = []
        self.end = self.parts = 0

    def append(self, layer: int, key_BHLD: Tensor, value_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        key, value = (
            torch.cat([self.before[:, 2 * layer + number], new], dim=2)
            for number, new in enumerate((key_BHLD, value_BHLD))
        )
        self.grown += [key, value]
        return key, value

    def all(self) -> Tensor:
        """What the next part takes, (B, 2 N, H, P + l, 64)."""
        return torch.stack(self.grown, dim=1)


class WatchedAttention(SelfAttention):
    """The same attention, which leaves its weights in the cache: the mean over heads of each block, (B, l, P + l)."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__(attention.heads, normalise=attention.log_scale is not None)
        self.load_state_dict(attention.state_dict())

    def forward(self, x_BLC: Tensor, *, cache: Any = None, layer: int = 0, **_: Any) -> Tensor:
        query, key, value = self.heads_so_far(x_BLC, cache, layer)
        weights = ((query * self.softmax_scale) @ key.transpose(-2, -1)).softmax(dim=-1)
        cache.attention.append(weights.mean(dim=1))
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class TransformerGraph(nn.Module):
    """One part after P positions whose keys and values are in the cache.

    Classes (B,) int32, what the part reads (B, l, C), cache (B, 2 N, H, P, 64) -> logits (B, l, V), cache with l more.
    At the first part (P = 0) what is read counts for nothing: there stand the start tokens of the class. Watched, it
    gives the attention of all blocks as well, (B, N, l, P + l), the mean over heads.
    """

    table: Tensor | None
    places: Tensor
    starts: Tensor

    def __init__(self, model: Transformer, *, watched: bool = False) -> None:
        super().__init__()
        self.model, self.watched = model, watched
        if watched:
            for block in model.blocks:
                block.attention = WatchedAttention(block.attention)
        config, first = model.config, model.sequence.lengths[0]
        self.first = first
        with torch.no_grad():
            places = model.level_embedding(model.levels) + model.positions
            starts = torch.zeros_like(places)
            starts[:first] = model.start_position
            tabulated = TABULATED * (config.classes + 1) <= config.width
            table = rows_of_condition(model.condition(torch.arange(config.classes + 1))) if tabulated else None
        self.register_buffer("places", places)
        self.register_buffer("starts", starts)
        self.register_buffer("table", table)

    def condition(self, classes: Tensor) -> Condition:
        """The condition of classes (B,)."""
        if self.table is None:
            return self.model.condition(classes)
        depth, width = self.model.config.depth, self.model.config.width
        start, rows, head = F.embedding(classes, self.table).split([width, ROWS * depth * width, 2 * width], dim=1)
        return Condition(start, rows.unflatten(1, (depth, ROWS, width)).unbind(1), head.unflatten(1, (2, width)))

    def forward(self, classes: Tensor, latents: Tensor, cache: Tensor) -> tuple[Tensor, ...]:
        condition, known = self.condition(classes), GrowingCache(cache)
        places = torch.arange(latents.shape[1]) + cache.shape[3]
        start_BLC = condition.start_BC.unsqueeze(1) + F.embedding(places, self.starts)
        is_first = (places < self.first).unsqueeze(-1)
        x_BLC = torch.where(is_first, start_BLC, self.model.word_embedding(latents)) + F.embedding(places, self.places)
        logits = self.model.classify(self.model.transform(x_BLC, condition, cache=known))
        seen = [torch.stack(known.attention, dim=1)] if self.watched else []
        return logits, known.all(), *seen


def rows_of_condition(condition: Condition) -> Tensor:
    """Everything that blocks and head read of a condition, (B, (1 + 6 N + 2) D)."""
    assert condition.head_rows_B2C is not None
    parts = [condition.start_BC, *(rows.flatten(1) for rows in condition.rows), condition.head_rows_B2C.flatten(1)]
    return torch.cat(parts, dim=1)
