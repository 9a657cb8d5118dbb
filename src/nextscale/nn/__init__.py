"""Networks; here the architecture that transformers share, without torch so that it is quick to import."""

from __future__ import annotations

from dataclasses import dataclass, field

from nextscale.config import LEFT_OUT, require_at_least
from nextscale.pyramid import ScaleSchedule

HEAD_WIDTH = 64
"""Channels of an attention head, in every model (official code)."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How a model reads prompts: a small encoder of words that is trained along, or one of transformers before it."""

    encoder: str = ""
    "Frozen encoder of transformers whose features are read, a hub id or folder; empty reads words."
    features: int = 0
    "Channels of the frozen encoder's features; 0 without one."
    tokens: int = 16
    "Tokens of a prompt that are read."
    rows: int = 8192
    "Rows of the table of words and character trigrams; their hashes share them."
    width: int = 192
    "Channels of the tokens that blocks attend to."
    blocks: int = 2
    "Blocks of the encoder that is trained along."
    every: int = 2
    "Each such block of the transformer attends to the tokens, from the first on; 0: the pooled vector is all."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "tokens", "rows", "width")
        require_at_least(self, 0, "features", "blocks", "every")
        if self.width % HEAD_WIDTH:
            raise ValueError(f"text: width must be a multiple of {HEAD_WIDTH}, got {self.width}")
        if bool(self.encoder) != bool(self.features):
            raise ValueError("text: features are the channels of an encoder; give both or neither")

    def attended_by(self, block: int) -> bool:
        """Whether the transformer's block of this number attends to the tokens."""
        return self.every > 0 and block % self.every == 0


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
    text: TextConfig | None = field(default=None, metadata={LEFT_OUT: True})
    "How a model of prompts reads them; None for a model of classes."

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", ScaleSchedule(self.scales).sizes)
        require_at_least(self, 1, "depth", "codebook_size", "latent_channels")
        require_at_least(self, 0, "classes", "heads")
        if self.shared_adaln and not self.adaln:
            raise ValueError("shared_adaln shares what a model without adaln does not have; choose one")
        if self.text is not None and self.classes:
            raise ValueError(f"a model of prompts has no classes, got {self.classes}; leave them out")
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
        """Id of the unconditional class; 0 in a model of prompts, where it is the empty prompt."""
        return self.classes
