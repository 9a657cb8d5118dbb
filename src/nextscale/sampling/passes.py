"""A map drawn in several passes, the surest tokens kept first (MaskGIT, arXiv 2202.04200): masks, schedule, confidence.

Shapes: B batch, L positions of a map, C latent channels, (h_k, w_k) its grid, V codebook entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nextscale.sampling.draw import draw_next, tempered
from nextscale.sampling.noise import CONFIDENCES, gumbel_noise
from nextscale.sampling.step import SamplingConfig, SamplingHook
from nextscale.tokenizer.residual import Quantizer

CHOICE_TEMPERATURE = 4.5
"""Noise on how sure tokens of the last map are, as in MaskGIT; it falls to 0 at the last pass."""


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


@dataclass(frozen=True)
class Pass:
    """One pass over the last map."""

    step: int
    "Of its noise; in the first pass the scale itself, so that it draws what a single one would."
    left: int
    "Positions that are still masked after it."
    noise: float
    "Weight of the noise on how sure tokens are."

    def draw(self, logits_BLV: Tensor, seeds: Tensor, config: SamplingConfig, stream: int) -> tuple[Tensor, Tensor]:
        """Tokens and how sure they are, both (B, L)."""
        tokens_BL = draw_next(logits_BLV, self.step, seeds, config, stream=stream)
        return tokens_BL, self.sure(logits_BLV, tokens_BL, seeds, config, stream)

    def sure(self, logits_BLV: Tensor, tokens_BL: Tensor, seeds: Tensor, config: SamplingConfig, stream: int) -> Tensor:
        """`confidence` of tokens, (B, L)."""
        weights = {"temperature": config.temperature, "noise": self.noise}
        return confidence(logits_BLV, tokens_BL, self.step, seeds, stream=stream, **weights)


def passes_of(scale: int, length: int, steps: int) -> list[Pass]:
    """The passes that draw a map of `length` tokens: `steps`, but not more than tokens."""
    steps = min(steps, length)
    counts = enumerate(masked_counts(length, steps))
    return [Pass(scale + number, left, CHOICE_TEMPERATURE * (1 - (number + 1) / steps)) for number, left in counts]


class DrawInPasses:
    """A `next_scale.Draw`: coarser maps as `first` draws them, the last one in `refine_steps` passes.

    Each pass draws all masked tokens and keeps the surest; what it keeps, the model reads in the next one. A hook sees
    the logits and tokens of every pass. Nothing waits for the host.
    """

    def __init__(
        self,
        first: Callable[..., tuple[Tensor, Tensor | None]],
        predict: Callable[..., Tensor],
        quantizer: Quantizer,
        seeds: Tensor,
        config: SamplingConfig,
        stream: int,
        hook: SamplingHook,
    ) -> None:
        """`predict` takes a scale, what was accumulated with the known codes, and which are known (B, L) bool."""
        self.first, self.predict, self.quantizer, self.hook = first, predict, quantizer, hook
        self.seeds, self.config, self.stream = seeds, config, stream

    def __call__(self, scale: int, logits: Tensor, accumulated: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, L, V) guided logits of the first pass -> tokens (B, L)."""
        if scale < len(self.quantizer.schedule) - 1:
            return self.first(scale, logits, accumulated)
        size, given = self.quantizer.schedule[scale], (accumulated,)
        masked = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        tokens = torch.zeros_like(masked, dtype=torch.int64)
        for number, one in enumerate(passes_of(scale, logits.shape[1], self.config.refine_steps)):
            if number:
                codes = known_codes(self.quantizer, tokens.unflatten(1, size), ~masked.unflatten(1, size))
                given = accumulated + codes, ~masked
                logits = self.hook.logits(scale, self.predict(scale, *given), accumulated)
            drawn, sure = self.decide(scale, one, logits, masked, given)
            tokens = torch.where(masked, drawn, tokens)
            if one.left:  # the hook sees those of the last pass as it does those of other scales
                tokens = self.hook.tokens(scale, tokens.unflatten(1, size)).flatten(1)
                masked = least_sure(sure, masked, one.left)
        return tokens, None

    def decide(
        self, scale: int, one: Pass, logits: Tensor, masked: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """What is drawn in a pass, and how sure it is, both (B, L); `given` is what the logits were predicted from."""
        return one.draw(logits, self.seeds, self.config.at(scale), self.stream)


def require_refinable(config: SamplingConfig, architecture: Any) -> None:
    """Raises ValueError for several passes with a model that was not trained to know part of its last map."""
    if config.refine_steps > 1 and not getattr(architecture, "refinable", False):
        raise ValueError(
            f"refine_steps {config.refine_steps}: this model draws its last map at once; set it to 1, or train a model "
            "with masked_last"
        )
