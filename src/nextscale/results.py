"""What a pipeline gives back.

Shapes: B batch, C latent channels, (h, w) latent grid, (h_k, w_k) grid of scale k.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from nextscale.pictures import to_images
from nextscale.pyramid import TokenPyramid
from nextscale.tokenizer.vqvae import VQVAE

ClassLike = str | int | None
"""A class by name or id; None is the unconditional class."""


@dataclass(frozen=True)
class Generation:
    """Images of a call and their tokens."""

    images: list[Image.Image]
    tokens: TokenPyramid
    classes: list[int]
    seeds: list[int]
    scores: list[float] | None = None
    "What the judge of rejection sampling gave."


@dataclass(frozen=True)
class GenerationStep:
    """One finished scale of a running generation."""

    scale: int
    tokens: Tensor  # (B, h_k, w_k) int64
    accumulated: Tensor  # (B, C, h, w) float32
    tokenizer: VQVAE

    def preview(self) -> list[Image.Image]:
        """The images as they stand after this scale."""
        return to_images(self.tokenizer.decode_each(self.accumulated))
