"""How likely a transformer finds token pyramids.

Shapes: B batch, L tokens, N images, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.conditions import Conditions, TextPrompts, as_conditions
from nextscale.pyramid import TokenPyramid
from nextscale.tokenizer.residual import Quantizer


def teacher_inputs(model: Any, quantizer: Quantizer, tokens: TokenPyramid) -> Tensor:
    """What a model reads when all tokens are known; its logits are in the pyramid's order.

    Raises ValueError for a kind without likelihoods.
    """
    require_likelihoods(model)
    return model.inputs(quantizer, tokens)


def require_likelihoods(model: Any) -> None:
    """Raises ValueError for a kind of model that gives no probabilities of token pyramids."""
    if not hasattr(model, "inputs"):
        raise ValueError("this kind of model gives no probabilities of token pyramids: it is not autoregressive")


@torch.no_grad()
def token_log_probabilities(
    model: Any, quantizer: Quantizer, tokens: TokenPyramid, classes: Tensor | Conditions
) -> tuple[Tensor, Tensor]:
    """log p of each token given all coarser scales and the class, (B, L) float32 in nats (paper, eq. 6).

    Also whether the token is the likeliest one, (B, L) bool. `classes` are conditions, or ids (B,), any of them.
    """
    logits_BLV = model(teacher_inputs(model, quantizer, tokens), classes)
    return picked(logits_BLV, tokens), logits_BLV.argmax(dim=-1) == tokens.packed


def picked(logits_BLV: Tensor, tokens: TokenPyramid) -> Tensor:
    """log softmax at the tokens, (B, L) float32."""
    losses = F.cross_entropy(logits_BLV.flatten(0, 1), tokens.packed.flatten(), reduction="none")
    return -losses.view_as(tokens.packed)


@torch.no_grad()
def paired_log_probabilities(
    model: Any, quantizer: Quantizer, tokens: TokenPyramid, classes: Tensor | Conditions
) -> tuple[Tensor, Tensor]:
    """log p of each token with its class, or prompt, and without any, both (B, L) float64 in nats on the CPU."""
    twice = TokenPyramid(torch.cat([tokens.packed, tokens.packed]), tokens.schedule)
    conditions = as_conditions(classes, model.config.unconditional)
    if isinstance(conditions, TextPrompts):  # likelihood knows no guidance, and so nothing that it leads away from
        conditions = conditions.without_negative()
    each = token_log_probabilities(model, quantizer, twice, conditions.with_unconditional())[0].cpu().double()
    conditional, unconditional = each.chunk(2)
    return conditional, unconditional


@torch.no_grad()
def class_log_likelihoods(
    model: Any, quantizer: Quantizer, tokens: TokenPyramid, weights: Tensor | None = None
) -> Tensor:
    """log p(tokens | class) of every class, (B, C) float64 nats; its argmax classifies.

    `weights` (B or 1, L) counts each token by its share.
    """
    inputs = teacher_inputs(model, quantizer, tokens)  # the same for every class
    columns = []
    for label in range(model.config.classes):
        classes = torch.full((tokens.batch_size,), label, device=tokens.packed.device)
        each = picked(model(inputs, classes), tokens)
        columns.append((each if weights is None else each * weights).cpu().double().sum(dim=1))
    return torch.stack(columns, dim=1) if columns else torch.empty(tokens.batch_size, 0, dtype=torch.float64)
