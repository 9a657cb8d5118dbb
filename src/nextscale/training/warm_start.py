"""Start a transformer from another one that knows other classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from nextscale.models.families import Model, kind_of
from nextscale.models.transformer import TransformerConfig
from nextscale.tokenizer.vqvae import VQVAEConfig

CLASS_TABLE = "class_embedding.weight"
Architecture = TypeVar("Architecture", bound=TransformerConfig)


def started_config(
    start: TransformerConfig, wanted: Architecture, tokenizer: VQVAEConfig, classes: int, source: str
) -> Architecture:
    """The architecture of a model that starts from one of `start`. Raises ValueError for another kind or tokens."""
    if type(start) is not type(wanted):
        raise ValueError(f"init_from {source}: is {kind_of(start).title}, not {kind_of(wanted).title}")
    for name in ("scales", "codebook_size", "latent_channels"):
        theirs, ours = getattr(start, name), getattr(tokenizer, name)
        if theirs != ours:
            raise ValueError(
                f"init_from {source}: its {name} is {theirs}, the tokenizer's {ours}; "
                "start from a model of the same tokenizer"
            )
    return replace(start, classes=classes)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def warm_start(model: Model, names: Sequence[str], start: Model, start_names: Sequence[str]) -> int:
    """Copy all weights of `start`, class tables by name; returns how many classes it knew.

    Classes that it did not know begin as the unconditional class. Unconditional stays unconditional.
    """
    places = {name: row for row, name in enumerate(start_names)}
    unconditional = start.config.unconditional
    rows = [places.get(name, unconditional) for name in names] + [unconditional]
    state = {
        name: tensor[rows] if name.endswith(CLASS_TABLE) else tensor
        for name, tensor in ((name, tensor.to(torch.float32)) for name, tensor in start.state_dict().items())
    }
    model.load_state_dict(state)
    return sum(name in places for name in names)
