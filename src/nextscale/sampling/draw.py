"""The draw of tokens: Gumbel noise per image, the best score among what the filters keep, and how sure it is.

Shapes: B batch, L positions, V codebook entries, N rows (positions of all images).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TABLE_BYTES = 4 * 2**20
"""Bound on the (N, V) tables worked on at once: they should stay in cache."""
MASS_MARGIN = 1e-5
"""Rounding of a sum of probabilities."""


def gumbel_noise(length: int, size: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """-log of exponential noise, (B, length, size) float32: one generator per image, drawn on the CPU.

    The exponential is -log(1 - u) with u from 31 random bits, never 0; small values, which decide, keep float32's
    relative precision. torch's own exponential takes five times as long.
    """
    bits = torch.empty(len(generators), length, size, dtype=torch.int32)
    for image, generator in zip(bits, generators, strict=True):
        image.random_(generator=generator)
    uniform = bits.to(device).float().add_(0.5).mul_(2.0**-31)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def draw(
    logits_BLV: Tensor, noise_BLV: Tensor, *, top_k: int = 0, top_p: float = 0.0, margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """One token per position, (B, L) int64: argmax of p over exponential noise among what the filters keep.

    Also (B, L) bool: where changes of the logits smaller than `margin` could give another token (nowhere, for a
    margin of 0). Tokens are those that `filter_logits` would give, but nothing is sorted: the best of all is
    taken, and where too much probability lies above it for top-p to keep it, everything that is no likelier is
    dropped and the next best taken.
    """
    size = logits_BLV.shape[-1]
    rows = max(1, TABLE_BYTES // (logits_BLV.element_size() * size))
    chunks = zip(logits_BLV.reshape(-1, size).split(rows), noise_BLV.reshape(-1, size).split(rows), strict=True)
    drawn = [
        draw_rows(logits, noise, top_k=min(top_k, size) % size, top_p=top_p, margin=margin) for logits, noise in chunks
    ]
    tokens, doubtful = (torch.cat(parts).view(logits_BLV.shape[:2]) for parts in zip(*drawn, strict=True))
    return tokens, doubtful


def draw_rows(logits_NV: Tensor, noise_NV: Tensor, *, top_k: int, top_p: float, margin: float) -> tuple[Tensor, Tensor]:
    """`draw` of rows: tokens (N,) and doubts (N,)."""
    scores_NV = logits_NV + noise_NV
    floor_N1 = torch.full_like(logits_NV[:, :1], -torch.inf)
    if top_k:
        floor_N1 = logits_NV.topk(top_k, sorted=False).values.amin(dim=-1, keepdim=True)
        scores_NV.masked_fill_(logits_NV < floor_N1 - margin, -torch.inf)
    if not top_p:
        best_N1, tokens_N1 = scores_NV.max(dim=-1, keepdim=True)
        doubtful_N = contested(scores_NV, best_N1, logits_NV.gather(-1, tokens_N1), floor_N1, margin)
        return tokens_N1.squeeze(-1), doubtful_N
    mass_NV = logits_NV.softmax(dim=-1)
    if top_k:
        mass_NV.masked_fill_(logits_NV < floor_N1, 0).div_(mass_NV.sum(dim=-1, keepdim=True))
    tokens = torch.empty(len(logits_NV), dtype=torch.int64, device=logits_NV.device)
    doubtful = torch.zeros(len(logits_NV), dtype=torch.bool, device=logits_NV.device)
    left = torch.arange(len(logits_NV), device=logits_NV.device)
    slack = MASS_MARGIN if margin else 0.0
    while len(left):
        best_N1, tokens_N1 = scores_NV.max(dim=-1, keepdim=True)
        chosen_N1 = logits_NV.gather(-1, tokens_N1)
        tokens[left] = tokens_N1.squeeze(-1)
        dropped = mass_NV.where(logits_NV > chosen_N1 + margin, 0).sum(dim=-1) >= top_p + slack
        if margin:
            around = mass_NV.where(logits_NV > chosen_N1 - margin, 0).sum(dim=-1)
            edge = around - mass_NV.gather(-1, tokens_N1).squeeze(-1) >= top_p - slack
            doubtful[left] = contested(scores_NV, best_N1, chosen_N1, floor_N1, margin) | (edge & ~dropped)
        left, logits_NV, mass_NV, floor_N1 = left[dropped], logits_NV[dropped], mass_NV[dropped], floor_N1[dropped]
        scores_NV = scores_NV[dropped].masked_fill_(logits_NV <= chosen_N1[dropped], -torch.inf)
    return tokens, doubtful


def contested(scores_NV: Tensor, best_N1: Tensor, chosen_N1: Tensor, floor_N1: Tensor, margin: float) -> Tensor:
    """Rows whose second-best score, or the last logit that top-k keeps, is within the margin, (N,) bool."""
    if not margin:
        return torch.zeros(len(scores_NV), dtype=torch.bool, device=scores_NV.device)
    return ((scores_NV > best_N1 - margin).sum(dim=-1) > 1) | (chosen_N1 < floor_N1 + margin).squeeze(-1)
