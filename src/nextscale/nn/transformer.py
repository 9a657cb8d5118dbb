"""What the transformers of all families share: embeddings, AdaLN blocks, and what depends on the class alone.

Shapes: B batch, L tokens of the sequence, l tokens of one part of it, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.init import trunc_normal_
from torch.utils.checkpoint import checkpoint

from nextscale.nn import TransformerConfig
from nextscale.nn.attention import KeyValueCache
from nextscale.nn.block import ROWS, AdaLNBlock
from nextscale.nn.linear import Linear

ATTENTION_GROUP = 128
"""Tokens from which scales get an attention product of their own in training."""


@dataclass(frozen=True)
class Condition:
    """All that depends on the class alone, computed once per image."""

    start_BC: Tensor
    rows: Sequence[Tensor]  # per block (B, 6, C)
    head_rows_B2C: Tensor | None = None  # scale, shift

    @property
    def batch(self) -> int:
        return self.start_BC.shape[0]


class Transformer(nn.Module):
    """GPT-2-style transformer with AdaLN over the parts of a sequence; families put heads on it."""

    mask: Tensor
    levels: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        "Whether training keeps only the blocks' inputs and computes the rest again in the backward pass."
        self.schedule = config.schedule
        self.sequence = config.sequence
        width, schedule = config.width, self.sequence
        self.class_embedding = nn.Embedding(config.classes + 1, width)
        self.start_position = nn.Parameter(torch.empty(schedule.lengths[0], width))
        self.positions = nn.Parameter(torch.empty(schedule.length, width))
        self.level_embedding = nn.Embedding(len(schedule), width)
        self.word_embedding = nn.Linear(config.latent_channels, width)
        self.shared_modulation = Linear(width, ROWS * width) if config.shared_adaln else None
        rates = [config.drop_path * block / max(1, config.depth - 1) for block in range(config.depth)]
        own = config.adaln and not config.shared_adaln
        self.blocks: Sequence[AdaLNBlock] = nn.ModuleList(  # pyright: ignore[reportAttributeAccessIssue]
            AdaLNBlock(config.heads, normalise=config.qk_normalisation, drop_path=rate, own=own) for rate in rates
        )
        self.register_buffer("mask", schedule.mask(), persistent=False)
        self.register_buffer("levels", schedule.levels(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in (autocast aside)."""
        return self.positions.dtype

    def initialise(self, *, gamma: float = 1e-3) -> None:
        """Draw initial weights by the published rule from torch's global generator.

        trunc-normal std sqrt(1 / (3 C)); branch outputs divided by sqrt(2 depth); AdaLN gamma rows x `gamma`, its other
        rows x 0.5; Linear biases 0. Without AdaLN, plain layer normalisation.
        """
        width = self.config.width
        std = (1 / (3 * width)) ** 0.5
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for parameter in (self.start_position, self.positions):
            trunc_normal_(parameter, std=std)
        with torch.no_grad():
            for block in self.blocks:
                shrink = (2 * self.config.depth) ** 0.5
                block.attention.proj.weight.div_(shrink)
                block.feed_forward.get_submodule("2").get_parameter("weight").div_(shrink)
                if not self.config.adaln:
                    assert block.offset is not None
                    block.offset[:2] = 1
                    block.offset[2:] = 0
                    continue
                rows = block.offset if block.modulation is None else block.modulation.weight.unflatten(0, (ROWS, -1))
                assert rows is not None
                if block.offset is not None:
                    nn.init.normal_(block.offset, std=width**-0.5)
                rows[:2].mul_(gamma)
                rows[2:].mul_(0.5)

    def condition(self, classes: Tensor) -> Condition:
        """Start token and modulation rows of class ids (B,), unconditional id included."""
        class_BC = self.class_embedding(classes)
        shared = None
        if self.shared_modulation is not None:
            shared = self.shared_modulation(F.silu(class_BC)).unflatten(1, (ROWS, -1))
        rows = [block.rows(class_BC, shared) for block in self.blocks]
        return Condition(class_BC, rows)

    def embed(self, latents: Tensor | None, condition: Condition, span: slice) -> Tensor:
        """Input tokens of the positions in `span`: start tokens for scale 1, else projected latents."""
        if latents is None:
            x_BLC = condition.start_BC.unsqueeze(1) + self.start_position
        else:
            x_BLC = self.word_embedding(latents.to(self.dtype))
        return x_BLC + self.level_embedding(self.levels[span]) + self.positions[span]

    def hidden(self, latents: Tensor, condition: Condition) -> Tensor:
        """A whole sequence at once: latents of all parts but the first (B, L - l_1, latent_channels) -> (B, L, C)."""
        first = self.sequence.slice(0)
        x_BLC = torch.cat(
            [
                self.embed(None, condition, first),
                self.embed(latents, condition, slice(first.stop, self.sequence.length)),
            ],
            dim=1,
        )
        return self.through_blocks(x_BLC, condition)

    def through_blocks(self, x_BLC: Tensor, condition: Condition) -> Tensor:
        """All blocks over a whole sequence, (B, L, C) -> same: each token sees the parts up to its own."""
        # A group that is one part sees everything up to its end and needs no mask.
        groups = [
            (span, None if span in self.sequence.slices else self.mask[span, : span.stop])
            for span in self.sequence.groups(ATTENTION_GROUP)
        ]
        for block, rows in zip(self.blocks, condition.rows, strict=True):
            if self.checkpointing and self.training:
                x_BLC = checkpoint(block, x_BLC, rows, groups=groups, use_reentrant=False)
            else:
                x_BLC = block(x_BLC, rows, groups=groups)
        return x_BLC

    def new_cache(self, batch: int) -> KeyValueCache:
        """An empty cache for `batch` sequences in the weights' type."""
        return KeyValueCache(
            layers=self.config.depth,
            batch=batch,
            heads=self.config.heads,
            length=self.sequence.length,
            device=self.device,
            dtype=self.dtype,
        )

    def advance(self, part: int, latents: Tensor | None, condition: Condition, cache: KeyValueCache) -> Tensor:
        """The hidden states of one part, (B, l, C); its keys and values are added to the cache.

        `latents` (B, l, latent_channels) is what the part reads; None at the first.
        """
        span = self.sequence.slice(part)
        assert cache.end == span.start, "parts must be stepped in order"
        x_BLC = self.embed(latents, condition, span)
        for layer, (block, rows) in enumerate(zip(self.blocks, condition.rows, strict=True)):
            x_BLC = block(x_BLC, rows, cache=cache, layer=layer)
        cache.advance(x_BLC.shape[1])
        return x_BLC


def no_decay(name: str, parameter: Tensor) -> bool:
    """Whether weight decay skips a parameter: vectors, biases, positions, levels, scales and offsets.

    The class embedding does decay (official recipe)."""
    skipped: tuple[Any, ...] = ("start_position", "positions", "level_embedding", "log_scale", "offset", "head_offset")
    return parameter.ndim < 2 or any(part in skipped for part in name.split("."))
