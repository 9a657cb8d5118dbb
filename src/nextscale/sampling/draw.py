"""From logits to tokens: guidance, temperature, top-k, top-p, and the draw with Gumbel noise of each image.

No function overwrites its inputs.
Shapes: B batch, L positions, V codebook entries, N rows (positions of all images).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.conditions import Conditions
from nextscale.nn.cuda import uses_kernels
from nextscale.sampling.noise import TOKENS, gumbel_noise
from nextscale.sampling.step import SamplingConfig

TABLE_BYTES = 4 * 2**20
"""Bound on the (N, V) tables worked on at once: they should stay in the processor's cache."""
MASS_MARGIN = 1e-5
"""Bound on the rounding of a sum of probabilities."""


def guidance_ramp(scale: int, scales: int) -> float:
    """(k-1)/(K-1): 0 at the first scale, 1 at the last, and 1 where there is only one."""
    return scale / (scales - 1) if scales > 1 else 1.0


def guidance_strengths(config: SamplingConfig, scales: int) -> list[float]:
    """Guidance at each scale: along the ramp, and 0 from the first scale on that is not guided."""
    guided = config.guided_scales or scales
    return [config.guidance * guidance_ramp(scale, scales) if scale < guided else 0.0 for scale in range(scales)]


def guide(conditional_BLV: Tensor, unconditional_BLV: Tensor, strength: float) -> Tensor:
    """Classifier-free guidance, (1 + t) conditional - t unconditional, with t the strength."""
    return (1 + strength) * conditional_BLV - strength * unconditional_BLV


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a batch: the model sees every image twice, the second time without its class.

    At a strength of 0 nothing is doubled.
    """

    strength: float

    def conditions(self, conditions: Conditions) -> Conditions:
        """What the model is conditioned on: B -> 2 B."""
        return conditions.with_unconditional() if self.strength else conditions

    def doubled(self, values: Tensor) -> Tensor:
        """The same values for both halves: (B, ...) -> (2 B, ...)."""
        return torch.cat([values, values]) if self.strength else values

    def merged(self, values: Tensor, share: float = 1.0) -> Tensor:
        """`guide` of the two halves, with a share of the strength: (2 B, ...) -> (B, ...).

        Guidance is linear: merging what a linear head reads instead of its logits halves the head's work.
        """
        if not self.strength:
            return values
        conditional, unconditional = values.chunk(2)
        return guide(conditional, unconditional, self.strength * share)


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


def draw_tokens(
    logits_BLV: Tensor, noise_BLV: Tensor, *, top_k: int = 0, top_p: float = 0.0, margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """One token per position, (B, L) int64: argmax of p over exponential noise among what the filters keep.

    Also (B, L) bool: where changes of the logits smaller than `margin` could give another token (nowhere, for a
    margin of 0). Tokens are those that `filter_logits` would give, but nothing is sorted: the best of all is
    taken. Where the tokens likelier than it hold so much probability that top-p drops it, everything that is no
    likelier is dropped too, and the best of the rest taken.
    """
    size = logits_BLV.shape[-1]
    rows = max(1, TABLE_BYTES // (logits_BLV.element_size() * size))
    chunks = zip(logits_BLV.reshape(-1, size).split(rows), noise_BLV.reshape(-1, size).split(rows), strict=True)
    drawn = [
        draw_rows(logits, noise, top_k=0 if top_k >= size else top_k, top_p=top_p, margin=margin)
        for logits, noise in chunks
    ]
    tokens, doubtful = (torch.cat(parts).view(logits_BLV.shape[:2]) for parts in zip(*drawn, strict=True))
    return tokens, doubtful


def draw_rows(logits_NV: Tensor, noise_NV: Tensor, *, top_k: int, top_p: float, margin: float) -> tuple[Tensor, Tensor]:
    """`draw_tokens` of rows: tokens (N,) and doubts (N,)."""
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
    """Where the second-best score, or the last logit that top-k keeps, is within the margin of the best, (N,) bool."""
    if not margin:
        return torch.zeros(len(scores_NV), dtype=torch.bool, device=scores_NV.device)
    return ((scores_NV > best_N1 - margin).sum(dim=-1) > 1) | (chosen_N1 < floor_N1 + margin).squeeze(-1)


def draw_next(logits_BLV: Tensor, step: int, seeds: Tensor, config: SamplingConfig, *, stream: int = TOKENS) -> Tensor:
    """One token per position with the noise of each image at a step, (B, L, V) guided logits -> (B, L) int64."""
    if uses_kernels(logits_BLV):
        from nextscale.sampling import kernels

        return kernels.draw(logits_BLV, step, seeds, config, stream=stream)
    noise_BLV = gumbel_noise(seeds, step, *logits_BLV.shape[1:], stream=stream)
    logits_BLV = tempered(logits_BLV, config.temperature)
    return draw_tokens(logits_BLV, noise_BLV, top_k=config.top_k, top_p=config.top_p)[0]


def smooth_mixture(logits_BLV: Tensor, noise_BLV: Tensor, config: SamplingConfig, *, ratio: float) -> Tensor:
    """Gumbel-softmax weights over the codebook, (B, L, V) (official `more_smooth`)."""
    filtered = filter_logits(logits_BLV, top_k=config.top_k, top_p=config.top_p)
    temperature = max(0.27 * (1 - 0.95 * ratio), 0.005)
    return ((filtered * (1 + ratio) + noise_BLV) / temperature).softmax(dim=-1)
