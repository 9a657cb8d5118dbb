"""What the decoder sees in training in place of perfect codes.

Some images have codes replaced by near ones (RobustTok, arXiv 2503.08354), some are decoded from their first scales
alone (ImageFolder, arXiv 2410.01756). Only the losses of pictures depend on it.
Shapes: B batch, K scales, C latent channels, V codebook entries, (h, w) the final grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.pyramid import TokenPyramid
from nextscale.tokenizer.config import VQVAEConfig
from nextscale.tokenizer.quantizer import disturb_tokens
from nextscale.tokenizer.residual import Quantizer
from nextscale.training.config import DisturbanceConfig

LEAST_SCALES = 3
"""Scales that every image keeps."""


def require_disturbable(model: VQVAEConfig, config: DisturbanceConfig) -> None:
    """Raises ValueError for a tokenizer that has too few codes or scales for what is asked."""
    if config.disturb and model.codebook_size < 2:
        raise ValueError("disturb needs a codebook of at least two codes")
    if config.scale_dropout and len(model.scales) <= LEAST_SCALES:
        raise ValueError(f"scale_dropout needs more than {LEAST_SCALES} scales, got {model.schedule}")


@dataclass(frozen=True)
class Disturbance:
    """The disturbance of one step; draws come from torch's own generator, on the tokens' device."""

    config: DisturbanceConfig
    quantizer: Quantizer
    share: float
    "Of the codes of a disturbed image, those that are replaced, 0..1."
    others: Tensor | None
    "The codes that may replace each code, (V, n) int64; None leaves all as they are."

    @torch.no_grad()
    def __call__(self, tokens: TokenPyramid) -> Tensor:
        """The map that is decoded instead of what all tokens accumulate to, (B, C, h, w) float32."""
        batch, device = tokens.batch_size, tokens.packed.device
        if self.others is not None:
            shares = self.share * (torch.rand(batch, 1, device=device) < self.config.disturb)
            tokens = TokenPyramid(disturb_tokens(tokens.packed, self.others, shares), tokens.schedule)
        if not self.config.scale_dropout:
            return self.quantizer.decode(tokens)
        kept = torch.randint(LEAST_SCALES, len(tokens), (batch,), device=device)
        dropped = torch.rand(batch, device=device) < self.config.scale_dropout
        return decode_first(self.quantizer, tokens, torch.where(dropped, kept, len(tokens)))


def decode_first(quantizer: Quantizer, tokens: TokenPyramid, scales: Tensor) -> Tensor:
    """What the first scales of each image accumulate to, (B, C, h, w); `scales` (B,) is how many, 0..K."""
    found = quantizer.zeros(tokens.batch_size)
    for state in quantizer.states(tokens):
        found = torch.where((state.scale < scales)[:, None, None, None], state.accumulated, found)
    return found
