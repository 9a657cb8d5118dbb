"""Images that do not depend on their batch: near ties decided alone, and refinement image by image.

Batches change float32 logits in their last digits. Where that could change a token, the logits of that image are
computed again without the others.
Shapes: B batch, C latent channels, (h, w) final grid, l = h_k w_k positions of a scale, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nextscale.sampling.draw import draw_tokens, tempered
from nextscale.sampling.step import SamplingConfig
from nextscale.tokenizer.residual import Quantizer

NEAR_TIE = 5e-4
"""Scores closer than this are decided alone, at a guidance of up to 1.5: batches move logits by 5e-5."""


def near_tie(config: SamplingConfig) -> float:
    """Difference of scores below which a draw is decided alone: guidance magnifies rounding."""
    return NEAR_TIE * max(1.0, (1 + 2 * abs(config.guidance)) / 4) / config.temperature


class ExactDraw:
    """Draws tokens; those of an image with a near tie by logits that `alone(image)` predicts for it without the batch.

    Serves one generation, whose scales it remembers.
    """

    def __init__(self, alone: Callable[[int], Callable[[int, Tensor], Tensor]], config: SamplingConfig) -> None:
        self.alone, self.config = alone, config
        self.known: list[Tensor] = []  # what was accumulated before each scale

    def __call__(self, scale: int, logits: Tensor, noise: Tensor, accumulated: Tensor) -> tuple[Tensor, None]:
        """(B, l, V) logits over the temperature and noise -> tokens (B, l)."""
        self.known.append(accumulated)
        filters = {"top_k": self.config.top_k, "top_p": self.config.top_p}
        tokens, doubtful = draw_tokens(logits, noise, **filters, margin=near_tie(self.config))
        for image in doubtful.any(dim=-1).nonzero().flatten().tolist():
            one = slice(image, image + 1)
            predict = self.alone(image)
            *_, last = (predict(before, known[one]) for before, known in enumerate(self.known))
            tokens[one] = draw_tokens(tempered(last, self.config.temperature), noise[one], **filters)[0]
        return tokens, None


class EachAlone(Quantizer):
    """A quantizer whose convolutions see one image at a time."""

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer, self.schedule = quantizer, quantizer.schedule

    @property
    def vocabulary(self) -> int:
        return self.quantizer.vocabulary

    def zeros(self, batch: int) -> Tensor:
        return self.quantizer.zeros(batch)

    def choose(self, features: Tensor) -> Tensor:
        return self.quantizer.choose(features)

    def lookup(self, tokens: Tensor) -> Tensor:
        return self.quantizer.lookup(tokens)

    def refine(self, scale: int, upsampled: Tensor) -> Tensor:
        return torch.cat([self.quantizer.refine(scale, image) for image in upsampled.split(1)])
