"""Tokens with mistakes that later scales make good, to train on (self-correction, Infinity, arXiv 2412.04431).

Infinity flips bits; here, near codes of a codebook take a code's place.
Shapes: B batch, V vocabulary, N near codes of each, (h_k, w_k) the grid of scale k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextscale.pyramid import TokenPyramid
from nextscale.tokenizer.residual import Quantizer, accumulate, downsample

NEAR_CODES = 100
"""Nearest codes among which a mistake is drawn (RobustTok)."""
ROWS = 1024
"""Codes whose distances to all others are computed at once."""


@torch.no_grad()
def near_codes(quantizer: Quantizer, count: int = NEAR_CODES) -> Tensor:
    """The nearest other codes of each, (V, N) int64, N = `count` or all others."""
    codes = quantizer.codes().float()
    others, found = min(count, max(1, len(codes) - 1)), []
    for start in range(0, len(codes), ROWS):
        distances = torch.cdist(codes[start : start + ROWS], codes, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(start).fill_(torch.inf)
        found.append(distances.topk(others, largest=False).indices)
    return torch.cat(found)


class SelfCorrection:
    """What a model reads with mistakes, and the tokens that correct them; draws from torch's global generator."""

    def __init__(self, quantizer: Quantizer, most: float) -> None:
        """Each image has a rate of mistakes, uniform from 0 to `most`."""
        self.quantizer, self.most, self.near_VN = quantizer, most, near_codes(quantizer)

    @torch.no_grad()
    def __call__(self, tokens: TokenPyramid) -> tuple[TokenPyramid, TokenPyramid]:
        """(what is read, what is to be predicted): see `with_mistakes`."""
        packed = tokens.packed
        rate_B1 = self.most * torch.rand(len(packed), 1, device=packed.device)
        wrong_BL = torch.rand(packed.shape, device=packed.device) < rate_B1
        ranks_BL = torch.randint(self.near_VN.shape[1], packed.shape, device=packed.device)
        with torch.autocast(packed.device.type, enabled=False):
            return with_mistakes(self.quantizer, tokens, wrong_BL, ranks_BL, self.near_VN)


def with_mistakes(
    quantizer: Quantizer, tokens: TokenPyramid, wrong_BL: Tensor, ranks_BL: Tensor, near_VN: Tensor
) -> tuple[TokenPyramid, TokenPyramid]:
    """(what is read, what is to be predicted), given where mistakes are and which near code is taken there.

    The second holds the codes of what is left after the mistakes of coarser scales, the first those codes with the
    mistakes of their own scale. What scale k had left is known from its token, up to the rounding of that: it is the
    token's code e_k, less what the mistakes added to the sum of coarser scales, f'_(k-1) - f_(k-1). Without mistakes,
    both are `tokens`.
    """
    schedule = tokens.schedule
    wrong, ranks = TokenPyramid(wrong_BL.long(), schedule), TokenPyramid(ranks_BL, schedule)
    before = [quantizer.zeros(tokens.batch_size), *(state.accumulated for state in quantizer.states(tokens))]
    read: list[Tensor] = []
    wanted: list[Tensor] = []

    def choose(scale: int, accumulated: Tensor) -> Tensor:
        added = downsample(accumulated - before[scale], schedule[scale])
        wanted.append(quantizer.choose(quantizer.lookup(tokens[scale]) - added))
        read.append(torch.where(wrong[scale] > 0, near_VN[wanted[-1], ranks[scale]], wanted[-1]))
        return quantizer.lookup(read[-1])

    for _ in accumulate(before[0], schedule, choose, quantizer.refine):
        pass
    return TokenPyramid.from_maps(read, schedule), TokenPyramid.from_maps(wanted, schedule)
