"""Images that do not depend on their batch: near ties decided without it, and refinement image by image.

Batches change float32 logits in their last digits. Where that could change a token, the logits of that image are
computed again without the others.
Shapes: B batch, C latent channels, (h, w) final grid, l = h_k w_k positions of a scale, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nextscale.sampling.draw import draw_next, draw_tokens, tempered
from nextscale.sampling.noise import gumbel_noise
from nextscale.sampling.passes import DrawInPasses, Pass
from nextscale.sampling.step import SamplingConfig
from nextscale.tokenizer.residual import Quantizer

NEAR_TIE = 5e-4
"""Scores closer than this are decided without the batch, at a guidance of up to 1.5: batches move logits by 5e-5."""


def near_tie(config: SamplingConfig) -> float:
    """Difference of scores below which a draw is decided without the batch; guidance magnifies rounding."""
    spatial = 1 + 2 * max(map(abs, config.spatial_guidance), default=0.0)
    return NEAR_TIE * max(1.0, (1 + 2 * abs(config.guidance)) / 4) * spatial / config.temperature


class ExactDraw:
    """Draws tokens. For an image with a near tie it takes the logits that `alone(image)` predicts without the batch.

    Serves one generation: it keeps what was accumulated before each scale.
    """

    def __init__(
        self,
        alone: Callable[[int], Callable[..., Tensor]],
        seeds: Tensor,
        config: SamplingConfig,
        stream: int,
    ) -> None:
        self.alone, self.seeds, self.config, self.stream = alone, seeds, config, stream
        self.history: dict[int, Tensor] = {}  # what was accumulated before each scale

    def __call__(self, scale: int, logits: Tensor, accumulated: Tensor) -> tuple[Tensor, None]:
        """(B, l, V) guided logits -> tokens (B, l)."""
        self.history[scale] = accumulated
        config = self.config.at(scale)
        noise = gumbel_noise(self.seeds, scale, *logits.shape[1:], stream=self.stream)
        logits = tempered(logits, config.temperature)
        tokens, doubtful = draw_tokens(logits, noise, top_k=config.top_k, top_p=config.top_p, margin=near_tie(config))
        for image in doubtful.any(dim=-1).nonzero().flatten().tolist():
            one = slice(image, image + 1)
            tokens[one] = draw_next(self.without_batch(image), scale, self.seeds[one], config, stream=self.stream)
        return tokens, None

    def without_batch(self, image: int, again: tuple[Tensor, ...] = ()) -> Tensor:
        """Logits (1, l, V) of one image at the last scale of the history; `again` is what a further pass reads."""
        one, predict = slice(image, image + 1), self.alone(image)
        *_, last = (predict(scale, before[one]) for scale, before in self.history.items())
        return predict(max(self.history), *(each[one] for each in again)) if again else last


class ExactInPasses(DrawInPasses):
    """Draws the last map in passes. For an image with a near tie, also in what is kept, see `ExactDraw`."""

    def __init__(self, exact: ExactDraw, *given: Any) -> None:
        """`exact` gives logits without the batch; the others are those of `DrawInPasses`."""
        super().__init__(*given)
        self.exact = exact

    def decide(
        self, scale: int, one: Pass, logits: Tensor, masked: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        first, config = len(given) == 1, self.config.at(scale)
        if first:
            self.exact.history[scale] = given[0]
        margin, noise = near_tie(config), gumbel_noise(self.seeds, one.step, *logits.shape[1:], stream=self.stream)
        tokens, doubtful = draw_tokens(
            tempered(logits, config.temperature), noise, top_k=config.top_k, top_p=config.top_p, margin=margin
        )
        sure = one.sure(logits, tokens, self.seeds, config, self.stream)
        doubts = (doubtful & masked).any(dim=-1)
        if one.left:  # two log p's, each of which changes by as much as the difference of two logits
            ordered = sure.masked_fill(~masked, torch.inf).sort(dim=1).values
            doubts |= ordered[:, one.left] - ordered[:, one.left - 1] < 2 * margin
        for image in doubts.nonzero().flatten().tolist():
            row = slice(image, image + 1)
            alone = self.exact.without_batch(image, () if first else given)
            tokens[row], sure[row] = one.draw(alone, self.seeds[row], config, self.stream)
        return tokens, sure


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
