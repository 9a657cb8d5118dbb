"""A map drawn in several passes, the surest tokens kept first (MaskGIT, arXiv 2202.04200): masks, schedule, confidence.

Shapes: B batch, L positions of a map, C latent channels, (h_k, w_k) its grid, V codebook entries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nextscale.sampling.draw import tempered
from nextscale.sampling.noise import CONFIDENCES, gumbel_noise
from nextscale.tokenizer.residual import Quantizer


def masked_share(ratio: float) -> float:
    """Cosine schedule: the share of tokens that is masked when `ratio` of the way is done (section 3.3)."""
    return math.cos(ratio * math.pi / 2)


def masked_counts(length: int, steps: int) -> list[int]:
    """Tokens still masked after each step: the cosine schedule, at least one fewer every step, 0 at the end."""
    counts, left = [], length
    for step in range(1, steps + 1):
        left = max(0, min(left - 1, int(length * masked_share(step / steps))))
        counts.append(left)
    counts[-1] = 0
    return counts


def random_masks(batch: int, length: int, device: torch.device) -> Tensor:
    """Masks to train on, (B, L) bool from torch's global generator: of each image, the cosine of a number (eq. 1)."""
    share = torch.cos(torch.rand(batch, 1, device=device) * (math.pi / 2))
    count = (share * length).ceil().clamp_min(1)
    return torch.rand(batch, length, device=device).argsort(dim=1).argsort(dim=1) < count


def known_codes(quantizer: Quantizer, tokens: Tensor, known: Tensor) -> Tensor:
    """Embeddings (B, C, h_k, w_k) of a token map (B, h_k, w_k) where it is `known` (B, h_k, w_k) bool, 0 elsewhere."""
    return quantizer.lookup(tokens) * known.unsqueeze(1)


def confidence(
    logits_BLV: Tensor,
    tokens_BL: Tensor,
    step: int,
    seeds: Tensor,
    *,
    temperature: float,
    noise: float,
    stream: int = 0,
) -> Tensor:
    """How sure drawn tokens are at a step, (B, L): their log p, and `noise` times Gumbel noise of each image."""
    sure_BLV = tempered(logits_BLV, temperature).log_softmax(dim=-1)
    sure_BL = sure_BLV.gather(-1, tokens_BL[..., None]).squeeze(-1)
    return sure_BL + noise * gumbel_noise(seeds, step, 1, tokens_BL.shape[1], stream=CONFIDENCES + stream)[:, 0]


def least_sure(confidence_BL: Tensor, masked_BL: Tensor, count: int) -> Tensor:
    """The `count` masked positions of each image to draw again, (B, L) bool; what is known stays known."""
    order_BL = confidence_BL.masked_fill(~masked_BL, torch.inf).argsort(dim=1)
    return torch.zeros_like(masked_BL).scatter_(1, order_BL[:, :count], True)
