"""How likely a transformer finds token pyramids.

Shapes: B batch, L tokens, N images, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.models.families import Model
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.teacher_forcing import teacher_inputs
from nextscale.tokenizer.quantizer import ResidualQuantizer


@torch.no_grad()
def token_log_probabilities(
    model: Model, quantizer: ResidualQuantizer, tokens: TokenPyramid, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """log p of each token given all coarser scales and the class, (B, L) float32 in nats (paper, eq. 6).

    Also whether the token is the likeliest one, (B, L) bool. `classes` (B,) may hold the unconditional id.
    """
    logits_BLV = model(teacher_inputs(model.config, quantizer, tokens), classes)
    losses = F.cross_entropy(logits_BLV.flatten(0, 1), tokens.packed.flatten(), reduction="none")
    return -losses.view_as(tokens.packed), logits_BLV.argmax(dim=-1) == tokens.packed


def class_evidence(model: Model, quantizer: ResidualQuantizer, tokens: TokenPyramid, classes: Tensor) -> Tensor:
    """log p(tokens | class) - log p(tokens), (B,) nats: how much the class explains, whatever is likely anyway."""
    free = torch.full_like(classes, model.config.unconditional)
    both = TokenPyramid(tokens.packed.repeat(2, 1), tokens.schedule)
    given, unconditional = token_log_probabilities(model, quantizer, both, torch.cat([classes, free]))[0].chunk(2)
    return (given - unconditional).cpu().double().sum(dim=1)


def class_log_likelihoods(model: Model, quantizer: ResidualQuantizer, tokens: TokenPyramid) -> Tensor:
    """log p(tokens | class) of every class, (B, C) float64 nats; its argmax classifies."""
    columns = []
    for label in range(model.config.classes):
        classes = torch.full((tokens.batch_size,), label, device=tokens.packed.device)
        columns.append(token_log_probabilities(model, quantizer, tokens, classes)[0].cpu().double().sum(dim=1))
    return torch.stack(columns, dim=1)
