"""What is kept of an image while its scales are sampled: hooks of the sampler, one per method.

Shapes: B batch, C latent channels, (h, w) final grid, (h_k, w_k) grid of scale k, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.sampling.step import SamplingHook
from nextscale.tokenizer.residual import downsample, flatten_map
from nextscale.tokenizer.vqvae import VQVAE


class KeepScales(SamplingHook):
    """The first scales are the original's, everywhere."""

    def __init__(self, tokenizer: VQVAE, images: Tensor, scales: int) -> None:
        """`images` (B, 3, H, W) in [-1, 1]; one serves a whole batch."""
        self.quantizer = tokenizer.quantizer
        self.original = tokenizer.encode(images)
        self.scales = scales

    def tokens(self, scale: int, tokens: Tensor) -> Tensor:
        return self.original[scale].to(tokens).expand_as(tokens) if scale < self.scales else tokens

    def embeddings(self, scale: int, embeddings: Tensor) -> Tensor:
        """Soft mixtures have no tokens to replace."""
        return self.quantizer.lookup(self.original[scale]).expand_as(embeddings) if scale < self.scales else embeddings


class EmbeddingsHook(SamplingHook):
    """The authors' rule: the original's codebook embeddings where more than half of a position is kept.

    The first scale is the original's whatever the mask, as in their notebook.
    """

    def __init__(self, tokenizer: VQVAE, images: Tensor, kept: Tensor) -> None:
        """`images` (B, 3, H, W) in [-1, 1]; `kept` (B, 1, h, w) from 0 to 1. One serves a whole batch."""
        self.quantizer = tokenizer.quantizer
        self.original = tokenizer.encode(images)
        self.kept = kept

    def keeps(self, scale: int) -> Tensor:
        """Positions of a scale that are the original's, (B, 1, h_k, w_k)."""
        small = F.interpolate(self.kept, size=self.original.schedule[scale], mode="bilinear")
        return small > 0.5 if scale > 0 else torch.ones_like(small, dtype=torch.bool)

    def tokens(self, scale: int, tokens: Tensor) -> Tensor:
        return torch.where(self.keeps(scale)[:, 0], self.original[scale].to(tokens), tokens)

    def embeddings(self, scale: int, embeddings: Tensor) -> Tensor:
        """Soft mixtures have no tokens to replace."""
        return torch.where(self.keeps(scale), self.quantizer.lookup(self.original[scale]), embeddings)


class BlendHook(SamplingHook):
    """What was accumulated is the original's where it is kept, a mixture where a position is partly kept."""

    def __init__(self, tokenizer: VQVAE, images: Tensor, kept: Tensor) -> None:
        """As for `EmbeddingsHook`."""
        states = tokenizer.quantizer.states(tokenizer.encode(images))
        with torch.no_grad():
            self.known = [state.accumulated for state in states]
        self.kept = kept

    def accumulated(self, scale: int, accumulated: Tensor) -> Tensor:
        return torch.lerp(accumulated, self.known[scale], self.kept)


class EvidenceHook(SamplingHook):
    """Kept pixels are evidence: each scale draws from the model's probabilities times how well codes explain them.

    At a position of scale k the kept part of the latents that are still to be explained, r, is likely under a code e
    as a Gaussian around it is, with the variance that quantising this image left at this scale; where only a share of
    the position is kept, its logarithm counts by that share. A hole is the model's alone, what is wholly kept is
    quantised anew, *given what was really generated before*, so that finer scales repair what coarser ones did
    across the edge; positions on the edge weigh both. This is sampling from the posterior, scale by scale; the
    evidence counts twice, because what is kept should not vary (measured: docs/editing.md).
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
        """Mean square of what a scale left of the kept parts, (B, 1, 1)."""
        rest, share = self.left(accumulated, scale)
        squares = (rest.square().mean(dim=1, keepdim=True) * share).sum(dim=(1, 2, 3))
        return (squares / share.sum(dim=(1, 2, 3)).clamp_min(1e-6)).clamp_min(1e-8).view(-1, 1, 1)

    def left(self, accumulated: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Mean over the kept part of each position of what is to be explained (B, C, h_k, w_k), and that part."""
        size = self.schedule[scale]
        share = downsample(self.kept, size)
        rest = downsample((self.target - accumulated) * self.kept, size)
        return rest / share.clamp_min(1e-3), share

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        rest, share = self.left(accumulated, scale)
        distances = self.quantizer.distances(flatten_map(rest))  # |r - e|^2 but for |r|^2
        weight = self.strength * flatten_map(share) / (2 * self.variances[scale])
        return logits - weight * distances


Hook = Callable[[VQVAE, Tensor, Tensor], SamplingHook]
METHODS: dict[str, Hook] = {"evidence": EvidenceHook, "blend": BlendHook, "embeddings": EmbeddingsHook}
