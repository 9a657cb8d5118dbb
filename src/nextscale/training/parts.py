"""A batch on its way to the model: classes left out, the device, and parts of it that are worked through in turn.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from nextscale.pyramid import TokenPyramid
from nextscale.training.transfer import to_device

PART_TOKENS, COMPILED_PART_TOKENS = 1200, 2400
"""Tokens that make matrix products efficient on CPU; compiled steps keep less in memory, and so more at a time."""


def drop_classes(classes: Tensor, chance: Tensor, *, rate: float, unconditional: int) -> Tensor:
    """Classes (B,) with NO_CLASS and a share `rate` replaced by the unconditional class.

    `chance` (B,) uniform in [0, 1) decides, so that a sample's dropout never depends on the rank.
    """
    return classes.masked_fill((classes < 0) | (chance < rate), unconditional)


def on_device(inputs: TokenPyramid | Tensor, device: torch.device) -> TokenPyramid | Tensor:
    """Tokens or images on a device."""
    if isinstance(inputs, Tensor):
        return to_device(inputs, device)
    return TokenPyramid(to_device(inputs.packed, device), inputs.schedule)


def suggested_parts(tokens: TokenPyramid | Tensor, device: torch.device, *, compiled: bool = False) -> int:
    """Equal parts of a batch that are as fast as the whole: on CPU of some 1,200 tokens, compiled of 2,400."""
    if device.type != "cpu" or isinstance(tokens, Tensor):
        return 1
    share, wanted = tokens.batch_size, COMPILED_PART_TOKENS if compiled else PART_TOKENS
    least = -(-wanted // tokens.schedule.length)  # images of a part
    return next(parts for parts in range(max(1, share // least), 0, -1) if share % parts == 0)


def split_batch(tokens: TokenPyramid | Tensor, classes: Any, parts: int) -> list[tuple[Any, Any]]:
    """A batch of tokens or images in nearly equal parts, each with its classes or prompts."""
    if isinstance(tokens, Tensor):
        inputs = tokens.chunk(parts)
        sizes = [len(images) for images in inputs]
    else:
        inputs = [TokenPyramid(packed, tokens.schedule) for packed in tokens.packed.chunk(parts)]
        sizes = [part.batch_size for part in inputs]
    spans = [slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]
    return [(part, classes[span]) for part, span in zip(inputs, spans, strict=True)]
