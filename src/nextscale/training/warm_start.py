"""Start a transformer from another one that knows other classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from nextscale.models.var import VAR, VARConfig
from nextscale.tokenizer.vqvae import VQVAEConfig


def started_config(start: VAR, tokenizer: VQVAEConfig, classes: int, source: str) -> VARConfig:
    """The architecture of a model that starts from `start`. Raises ValueError when its tokens are others."""
    for name in ("scales", "codebook_size", "latent_channels"):
        theirs, ours = getattr(start.config, name), getattr(tokenizer, name)
        if theirs != ours:
            raise ValueError(
                f"init_from {source}: its {name} is {theirs}, the tokenizer's {ours}; "
                "start from a model of the same tokenizer"
            )
    return replace(start.config, classes=classes)


@torch.no_grad()
def warm_start(model: VAR, names: Sequence[str], start: VAR, start_names: Sequence[str]) -> int:
    """Copy all weights of `start`, the class table by name; returns how many classes it knew.

    Classes that it did not know begin as the unconditional class. Unconditional stays unconditional.
    """
    state = {name: tensor.to(torch.float32) for name, tensor in start.state_dict().items()}
    table = state.pop("class_embedding.weight")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["class_embedding.weight"] and not unexpected
    places = {name: row for row, name in enumerate(start_names)}
    rows = [places.get(name, start.config.unconditional) for name in names] + [start.config.unconditional]
    model.class_embedding.weight.copy_(table[rows])
    return sum(name in places for name in names)
