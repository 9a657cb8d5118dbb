"""Where a transformer looks: the attention of every token to every other.

Shapes: B batch, L tokens, H heads, C width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nextscale.families.var import VAR
from nextscale.nn.attention import SelfAttention
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.teacher_forcing import teacher_inputs
from nextscale.tokenizer.quantizer import ResidualQuantizer


@torch.no_grad()
def attention_shares(model: VAR, quantizer: ResidualQuantizer, tokens: TokenPyramid, classes: Tensor) -> list[Tensor]:
    """Per block, the mean over heads of softmax attention, (B, L, L) float32: rows are queries and sum to 1.

    Teacher forcing: each token sees its own scale and the coarser ones (paper, section 3.3).
    """
    shares: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, SelfAttention)
        query, key, _, factor = module.project(inputs[0])
        scores_BHLL = (query.float() @ key.float().transpose(-2, -1)) * factor
        shares.append(scores_BHLL.masked_fill(~model.mask, -torch.inf).softmax(dim=-1).mean(dim=1).cpu())

    hooks = [block.attention.register_forward_pre_hook(look) for block in model.blocks]
    try:
        model(teacher_inputs(model.config, quantizer, tokens.to(model.device)), classes.to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return shares
