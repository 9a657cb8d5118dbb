"""Guidance, top-k and top-p: pure functions of logits.

Shapes: B batch, L positions, V codebook entries. Nothing is overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def guidance_ramp(scale: int, scales: int) -> float:
    """(k-1)/(K-1): 0 at the first scale, 1 at the last, and 1 where there is only one."""
    return scale / (scales - 1) if scales > 1 else 1.0


def guide(conditional_BLV: Tensor, unconditional_BLV: Tensor, strength: float) -> Tensor:
    """Classifier-free guidance, (1 + t) conditional - t unconditional."""
    return (1 + strength) * conditional_BLV - strength * unconditional_BLV


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a batch: its pass holds every image twice, the second time without its class.

    At a strength of 0 there is one pass, and nothing is doubled.
    """

    strength: float

    def classes(self, classes: Tensor, unconditional: int) -> Tensor:
        """Classes of the pass: (B,) -> (2 B,)."""
        return torch.cat([classes, torch.full_like(classes, unconditional)]) if self.strength else classes

    def doubled(self, values: Tensor) -> Tensor:
        """What both halves read: (B, ...) -> (2 B, ...)."""
        return torch.cat([values, values]) if self.strength else values

    def merged(self, values: Tensor, share: float = 1.0) -> Tensor:
        """The conditional half guided by the other, with a share of the strength: (2 B, ...) -> (B, ...).

        What a linear head reads may be merged in place of its logits: that halves the head's work.
        """
        if not self.strength:
            return values
        given, free = values.chunk(2)
        return guide(given, free, self.strength * share)


def tempered(logits_BLV: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature; the same tensor at 1."""
    return logits_BLV if temperature == 1 else logits_BLV / temperature


def filter_logits(logits_BLV: Tensor, *, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Logits with everything that top-k and top-p drop at minus infinity.

    Top-k keeps the k largest logits (and ties with the last). Top-p keeps, in falling order of probability
    after top-k, each token before which less than p has been gathered; the first always stays. 0 is off.
    """
    size = logits_BLV.shape[-1]
    kept = min(top_k, size) if top_k else size
    if kept == size and not top_p:
        return logits_BLV
    ordered = logits_BLV.topk(kept).values
    threshold = ordered[..., -1:]
    if top_p:
        before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[..., 0] = 0
        threshold = ordered.gather(-1, (before < top_p).sum(dim=-1, keepdim=True).clamp_min(1) - 1)
    return logits_BLV.masked_fill(logits_BLV < threshold, -torch.inf)
