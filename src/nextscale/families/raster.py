"""The raster-order baseline: one token after the other, each given all before it (GPT-2 order, as VQGAN's prior).

It is the next-scale transformer over a sequence whose parts are single tokens: the same blocks, class modulation,
cache and head. What it reads is the code of the token before instead of coarser scales.
"""

from __future__ import annotations

from nextscale.families.config import RasterConfig as RasterConfig
from nextscale.families.var import VAR


class Raster(VAR):
    """VAR's transformer, token by token: `step` takes the place of a token as its scale."""
