"""Tokens of the last map that a model knows in training, so that it may draw that map in several passes.

The block-wise mask hides the last map from all coarser ones: one pass trains them too.
Shapes: B batch, l_K tokens of the last map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextscale.pyramid import TokenPyramid
from nextscale.sampling.passes import random_masks


class LastMapMasking:
    """Which tokens of the last map are known; draws from torch's global generator, on the device of the tokens."""

    def __init__(self, share: float) -> None:
        """`share` of the images know some; what they do not know is drawn as MaskGIT's masks are."""
        self.share = share

    def __call__(self, tokens: TokenPyramid) -> Tensor:
        """(B, l_K) bool; at least one token of every image is unknown."""
        batch, device = tokens.batch_size, tokens.packed.device
        chosen_B1 = torch.rand(batch, 1, device=device) < self.share
        return chosen_B1 & ~random_masks(batch, tokens.schedule.lengths[-1], device)
