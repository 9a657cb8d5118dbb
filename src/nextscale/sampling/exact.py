"""Images that do not depend on their batch: near ties decided without it, and refinement image by image.

Batches change float32 logits in their last digits. Where that could change a token, the logits of that image are
computed again without the others.
Shapes: B batch, C latent channels, (h, w) final grid, l = h_k w_k positions of a scale, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nextscale.sampling.draw import draw_next, draw_tokens, tempered
from nextscale.sampling.noise import gumbel_noise
from nextscale.sampling.step import SamplingConfig
from nextscale.tokenizer.residual import Quantizer

NEAR_TIE = 5e-4
"""Scores closer than this are decided without the batch, at a guidance of up to 1.5: batches move logits by 5e-5."""


def near_tie(config: SamplingConfig) -> float:
    """Difference of scores below which a draw is decided without the batch; guidance magnifies rounding."""
    return NEAR_TIE * max(1.0, (1 + 2 * abs(config.guidance)) / 4) / config.temperature


class ExactDraw:
    """Draws tokens. For an image with a near tie it takes the logits that `alone(image)` predicts without the batch.

    Serves one generation: it keeps what was accumulated before each scale.
    """

    def __init__(
        self,
        alone: Callable[[int], Callable[[int, Tensor], Tensor]],
        seeds: Tensor,
        config: SamplingConfig,
        stream: int,
    ) -> None:
        self.alone, self.seeds, self.config, self.stream = alone, seeds, config, stream
        self.history: list[Tensor] = []  # what was accumulated before each scale

    def __call__(self, scale: int, logits: Tensor, accumulated: Tensor) -> tuple[Tensor, None]:
        """(B, l, V) guided logits -> tokens (B, l)."""
        self.history.append(accumulated)
        config = self.config.at(scale)
        noise = gumbel_noise(self.seeds, scale, *logits.shape[1:], stream=self.stream)
        logits = tempered(logits, config.temperature)
        tokens, doubtful = draw_tokens(logits, noise, top_k=config.top_k, top_p=config.top_p, margin=near_tie(config))
        for image in doubtful.any(dim=-1).nonzero().flatten().tolist():
            one = slice(image, image + 1)
            predict = self.alone(image)
            *_, last = (predict(number, before[one]) for number, before in enumerate(self.history))
            tokens[one] = draw_next(last, scale, self.seeds[one], config, stream=self.stream)
        return tokens, None


class EachAlone(Quantizer):
    """A quantizer that refines one image at a time: convolutions of a batch round otherwise."""

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
