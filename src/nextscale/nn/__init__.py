"""Networks; here the architecture that transformers share, without torch so that it is quick to import."""

from __future__ import annotations

from dataclasses import dataclass

from nextscale.config import require_at_least
from nextscale.pyramid import ScaleSchedule

HEAD_WIDTH = 64
"""Channels of an attention head, in every model (official code)."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Architecture of the transformer; width, heads and drop-path follow from `depth`."""

    depth: int = 16
    "Blocks; width is 64 x depth, heads = depth, drop-path 0.1 x depth / 24."
    scales: tuple[tuple[int, int], ...] = tuple((s, s) for s in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    "Token-map sizes (height, width), coarse to fine: the tokenizer's."
    codebook_size: int = 4096
    "Entries of the tokenizer's codebook, V."
    latent_channels: int = 32
    "Channels of the tokenizer's latents."
    classes: int = 1000
    "Number of classes; one more embedding is the unconditional class."
    heads: int = 0
    "Attention heads of width 64; 0 derives it from depth."
    drop_path: float = -1.0
    "Largest stochastic-depth rate; negative derives it from depth."
    shared_adaln: bool = False
    "One AdaLN projection for all blocks plus an offset per block (the official 512 x 512 model)."
    adaln: bool = True
    "Layer normalisation modulated by the class; off, the class is the start token alone (for ablations)."
    qk_normalisation: bool = True
    "Unit queries and keys with a learned scale per head."

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", ScaleSchedule(self.scales).sizes)
        require_at_least(self, 1, "depth", "codebook_size", "latent_channels")
        require_at_least(self, 0, "classes", "heads")
        if self.shared_adaln and not self.adaln:
            raise ValueError("shared_adaln shares what a model without adaln does not have; choose one")
        if self.drop_path >= 1:
            raise ValueError(f"drop_path must be below 1, got {self.drop_path}")
        if self.heads == 0:
            object.__setattr__(self, "heads", self.depth)
        if self.drop_path < 0:
            object.__setattr__(self, "drop_path", 0.1 * self.depth / 24)

    @property
    def width(self) -> int:
        """Channels of the blocks."""
        return HEAD_WIDTH * self.heads

    @property
    def schedule(self) -> ScaleSchedule:
        """The scales of the tokens."""
        return ScaleSchedule(self.scales)

    @property
    def sequence(self) -> ScaleSchedule:
        """The parts that are predicted one after the other: whole scales here, single tokens in other families."""
        return self.schedule

    @property
    def sees_coarser(self) -> bool:
        """Whether a part attends to the parts before it, and so keeps their keys and values; else to itself alone."""
        return True

    @property
    def unconditional(self) -> int:
        """Id of the unconditional class."""
        return self.classes
