"""How likely a transformer finds token pyramids.

Shapes: B batch, L tokens, N images, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.families.table import Model
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.filters import Guidance
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
    return picked(logits_BLV, tokens), logits_BLV.argmax(dim=-1) == tokens.packed


def picked(logits_BLV: Tensor, tokens: TokenPyramid) -> Tensor:
    """log softmax at the tokens, (B, L) float32."""
    losses = F.cross_entropy(logits_BLV.flatten(0, 1), tokens.packed.flatten(), reduction="none")
    return -losses.view_as(tokens.packed)


@torch.no_grad()
def paired_log_probabilities(
    model: Model, quantizer: ResidualQuantizer, tokens: TokenPyramid, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """log p of each token with its class and without any, both (B, L) float64 in nats on the CPU."""
    both = Guidance(1.0)
    twice = TokenPyramid(both.doubled(tokens.packed), tokens.schedule)
    pairs = both.classes(classes, model.config.unconditional)
    given, free = token_log_probabilities(model, quantizer, twice, pairs)[0].cpu().double().chunk(2)
    return given, free


@torch.no_grad()
def class_log_likelihoods(
    model: Model, quantizer: ResidualQuantizer, tokens: TokenPyramid, weights: Tensor | None = None
) -> Tensor:
    """log p(tokens | class) of every class, (B, C) float64 nats; its argmax classifies.

    `weights` (B or 1, L) counts each token by its share.
    """
    inputs = teacher_inputs(model.config, quantizer, tokens)  # the same for every class
    columns = []
    for label in range(model.config.classes):
        classes = torch.full((tokens.batch_size,), label, device=tokens.packed.device)
        each = picked(model(inputs, classes), tokens)
        columns.append((each if weights is None else each * weights).cpu().double().sum(dim=1))
    return torch.stack(columns, dim=1) if columns else torch.empty(tokens.batch_size, 0, dtype=torch.float64)
