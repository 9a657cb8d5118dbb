"""Hooks of the sampler that keep parts of an image while its scales are sampled, one per method.

Shapes: B batch, C latent channels, (h, w) final grid, (h_k, w_k) grid of scale k, V codebook entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.sampling.step import SamplingHook
from nextscale.tokenizer.residual import downsample, flatten_map
from nextscale.tokenizer.vqvae import VQVAE


class KeepTokens(SamplingHook, ABC):
    """The original's tokens at some positions of each scale."""

    def __init__(self, tokenizer: VQVAE, images: Tensor) -> None:
        """`images` (B, 3, H, W) in [-1, 1]; a single image serves a batch of any size."""
        self.quantizer = tokenizer.quantizer
        self.original = tokenizer.encode(images)

    @abstractmethod
    def keeps(self, scale: int) -> Tensor:
        """Whether a position of a scale is the original's, (B, 1, h_k, w_k) bool."""

    def tokens(self, scale: int, tokens: Tensor) -> Tensor:
        return torch.where(self.keeps(scale)[:, 0], self.original[scale].to(tokens), tokens)

    def embeddings(self, scale: int, embeddings: Tensor) -> Tensor:
        """Soft mixtures have no tokens to replace."""
        return torch.where(self.keeps(scale), self.quantizer.lookup(self.original[scale]), embeddings)


class KeepScales(KeepTokens):
    """The first scales are the original's, at every position."""

    def __init__(self, tokenizer: VQVAE, images: Tensor, scales: int) -> None:
        super().__init__(tokenizer, images)
        self.scales = scales

    def keeps(self, scale: int) -> Tensor:
        return torch.full((1, 1, 1, 1), scale < self.scales, device=self.original.packed.device)


class EmbeddingsHook(KeepTokens):
    """The authors' rule: the original's codebook embeddings where more than half of a position is kept.

    The first scale is always the original's, as in their notebook.
    """

    def __init__(self, tokenizer: VQVAE, images: Tensor, kept: Tensor) -> None:
        """`images` (B, 3, H, W) in [-1, 1]; `kept` (B, 1, h, w) from 0 to 1; one of each serves any batch."""
        super().__init__(tokenizer, images)
        self.kept = kept

    def keeps(self, scale: int) -> Tensor:
        small = F.interpolate(self.kept, size=self.original.schedule[scale], mode="bilinear")
        return small > 0.5 if scale > 0 else torch.ones_like(small, dtype=torch.bool)


class BlendHook(SamplingHook):
    """The accumulated map is the original's where it is kept, and mixed by share where a position is partly kept."""

    def __init__(self, tokenizer: VQVAE, images: Tensor, kept: Tensor) -> None:
        """As for `EmbeddingsHook`."""
        states = tokenizer.quantizer.states(tokenizer.encode(images))
        with torch.no_grad():
            self.known = [state.accumulated for state in states]
        self.kept = kept

    def accumulated(self, scale: int, accumulated: Tensor) -> Tensor:
        return torch.lerp(accumulated, self.known[scale], self.kept)


class EvidenceHook(SamplingHook):
    """Kept pixels are evidence: tokens are drawn from the posterior, the model's probabilities times a likelihood.

    At a position of scale k, let r be the mean of the residual f - f_hat over the position's kept part. The likelihood
    of a code e is a Gaussian of r around e, with the variance that quantising this image leaves at this scale; its
    logarithm is multiplied by the position's kept share, and by `strength`: 2, because what is kept should not vary
    (measured: docs/editing.md). So a hole follows the model alone. A kept position is quantised again, *given what was
    really generated before*, so that finer scales repair what coarser ones did across the edge. A position on the edge
    weighs both.
    """

    def __init__(self, tokenizer: VQVAE, images: Tensor, kept: Tensor, *, strength: float = 2.0) -> None:
        """As for `EmbeddingsHook`; `strength` multiplies the evidence."""
        self.quantizer = tokenizer.quantizer
        self.schedule = tokenizer.schedule
        self.kept = kept
        with torch.no_grad():
            self.target = tokenizer.features(images).float()
            self.variances = [
                self.variance(state.accumulated, state.scale)
                for state in tokenizer.quantizer.states(tokenizer.encode(images))
            ]
        self.strength = strength

    def variance(self, accumulated: Tensor, scale: int) -> Tensor:
        """Mean square of the residual that a scale leaves in the kept parts, (B, 1, 1)."""
        rest, share = self.kept_residual(accumulated, scale)
        squares = (rest.square().mean(dim=1, keepdim=True) * share).sum(dim=(1, 2, 3))
        return (squares / share.sum(dim=(1, 2, 3)).clamp_min(1e-6)).clamp_min(1e-8).view(-1, 1, 1)

    def kept_residual(self, accumulated: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Mean residual over the kept part of each position, (B, C, h_k, w_k), and the kept shares (B, 1, h_k, w_k)."""
        size = self.schedule[scale]
        share = downsample(self.kept, size)
        rest = downsample((self.target - accumulated) * self.kept, size)
        return rest / share.clamp_min(1e-3), share

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        rest, share = self.kept_residual(accumulated, scale)
        distances = self.quantizer.distances(flatten_map(rest))  # |r - e|^2 but for |r|^2
        weight = self.strength * flatten_map(share) / (2 * self.variances[scale])
        return logits - weight * distances


METHODS: dict[str, Callable[[VQVAE, Tensor, Tensor], SamplingHook]] = {
    "evidence": EvidenceHook,
    "blend": BlendHook,
    "embeddings": EmbeddingsHook,
}
"""Hooks by the names of `METHOD_NAMES`."""
