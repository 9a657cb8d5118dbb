"""Guidance, top-k, top-p and the draw of tokens: pure functions of logits.

Shapes: B batch, L positions, V codebook entries. Nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def guidance_ramp(scale: int, scales: int) -> float:
    """(k-1)/(K-1): 0 at the first scale, 1 at the last, and 1 where there is only one."""
    return scale / (scales - 1) if scales > 1 else 1.0


def guide(conditional_BLV: Tensor, unconditional_BLV: Tensor, strength: float) -> Tensor:
    """Classifier-free guidance, (1 + t) conditional - t unconditional."""
    return (1 + strength) * conditional_BLV - strength * unconditional_BLV


def keep_thresholds(logits_BLV: Tensor, *, top_k: int, top_ps: Sequence[float]) -> list[Tensor]:
    """Lowest logit that top-k and then top-p keep, (B, L, 1), for each of several p.

    Top-k keeps the k largest logits (and ties with the last). Top-p keeps, in falling order of probability
    after top-k, each token before which less than p has been gathered; the first always stays. 0 is off.
    """
    size = logits_BLV.shape[-1]
    kept = min(top_k, size) if top_k else size
    if not any(top_ps):
        lowest = (
            logits_BLV.topk(kept).values[..., -1:] if kept < size else torch.full_like(logits_BLV[..., :1], -torch.inf)
        )
        return [lowest for _ in top_ps]
    ordered = logits_BLV.topk(kept).values
    before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
    before[..., 0] = 0
    return [
        ordered.gather(-1, (before < p).sum(dim=-1, keepdim=True).clamp_min(1) - 1) if p else ordered[..., -1:]
        for p in top_ps
    ]


def filter_logits(logits_BLV: Tensor, *, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Logits with everything that top-k and top-p drop at minus infinity."""
    if not top_k and not top_p:
        return logits_BLV
    (threshold,) = keep_thresholds(logits_BLV, top_k=top_k, top_ps=[top_p])
    return logits_BLV.masked_fill(logits_BLV < threshold, -torch.inf)


def gumbel_noise(length: int, size: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """-log of exponential noise, (B, length, size): one generator per image, drawn on the CPU."""
    noise = torch.stack([torch.empty(length, size).exponential_(generator=generator) for generator in generators])
    return noise.clamp_min(torch.finfo(noise.dtype).tiny).log().neg().to(device)


def draw(logits_BLV: Tensor, noise_BLV: Tensor) -> Tensor:
    """One token per position, (B, L): argmax of p over exponential noise, in the log domain."""
    return (logits_BLV + noise_BLV).argmax(dim=-1)
