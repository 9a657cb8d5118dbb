"""How often each code is used at each scale: usage and perplexity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from nextscale.pyramid import TokenPyramid


class CodebookUsage:
    """Counts of codes per scale, (K, V) int64."""

    def __init__(self, scales: int, codebook_size: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(scales, codebook_size, dtype=torch.int64, device=device)

    def add(self, tokens: TokenPyramid) -> None:
        """Count the tokens of a batch."""
        for scale, token_map in enumerate(tokens):
            self.counts[scale] += torch.bincount(token_map.flatten(), minlength=self.counts.shape[1])

    def reduce(self) -> None:
        """Sum over the processes of a distributed run."""
        if dist.is_initialized():
            dist.all_reduce(self.counts)

    def reset(self) -> None:
        self.counts.zero_()

    def used(self) -> float:
        """Share of the codebook used at any scale, 0..1."""
        return float((self.counts.sum(dim=0) > 0).float().mean())

    def perplexity(self) -> Tensor:
        """exp of the entropy of each scale's code distribution, (K,) in 1..V; 1 where nothing was counted."""
        shares = self.counts.double() / self.counts.sum(dim=1, keepdim=True).clamp_min(1)
        return torch.special.entr(shares).sum(dim=1).exp().float()

    def collapsed(self, best: Tensor) -> list[int]:
        """Scales (0-based) whose perplexity is below 2, or below a quarter of the best it had; `best` (K,) is raised.

        Scales of which fewer than 100 codes were counted are left out.
        """
        perplexity = self.perplexity().to(best)
        low = (perplexity < 2) | (perplexity < best / 4)
        best.copy_(torch.maximum(best, perplexity))
        return (low & (self.counts.sum(dim=1) >= 100).to(low.device)).nonzero().flatten().tolist()

    def summary(self) -> dict[str, Tensor]:
        """`used` (scalar), `used_per_scale` and `perplexity` (K,)."""
        per_scale = (self.counts > 0).float().mean(dim=1)
        return {
            "used": torch.tensor(self.used()),
            "used_per_scale": per_scale,
            "perplexity": self.perplexity(),
        }
