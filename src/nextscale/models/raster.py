"""The raster-order baseline: one token after the other, each given all before it (GPT-2 order, as VQGAN's prior).

It is the next-scale transformer over a sequence whose parts are single tokens: the same blocks, class modulation,
cache and head. What it reads is the code of the token before instead of coarser scales.
"""

from __future__ import annotations

from dataclasses import dataclass

from nextscale.models.transformer import TransformerConfig
from nextscale.models.var import VAR
from nextscale.pyramid import ScaleSchedule


@dataclass(frozen=True, kw_only=True)
class RasterConfig(TransformerConfig):
    """Architecture of the raster-order transformer; its tokenizer has a single scale."""

    scales: tuple[tuple[int, int], ...] = ((16, 16),)
    "The one token map's size (height, width): the tokenizer's."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_single_map(self, "raster order reads")

    @property
    def sequence(self) -> ScaleSchedule:
        return ScaleSchedule([1] * self.schedule.length)


def require_single_map(config: TransformerConfig, what: str) -> None:
    """Raises ValueError for a tokenizer with several scales."""
    if len(config.scales) != 1:
        raise ValueError(
            f"{what} a single token map, the tokenizer has {len(config.scales)} scales; "
            "train one with a single scale, such as --scales 8"
        )


class Raster(VAR):
    """VAR's transformer, token by token: `step` takes the place of a token as its scale."""
