"""Stage 2 on held-out images: loss and accuracy with their class and without.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextscale.classes import match_classes
from nextscale.data.loader import iterate_images
from nextscale.data.source import ImageSource
from nextscale.data.stream import ImageStream
from nextscale.data.tokens import TokenCache
from nextscale.pictures import to_float
from nextscale.progress import Announce, silent
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import autocast
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.config import LoopConfig
from nextscale.training.objective import Objective, mean_figures
from nextscale.training.split import spread


def class_places(named: Sequence[str], known: Sequence[str], data: str) -> Tensor | None:
    """Ids in `known` of the classes `named`; None where they are the same, or one side has no names.

    Raises ValueError for a class that is not known.
    """
    if not named or not known or tuple(named) == tuple(known):
        return None
    places = match_classes(named, known, where=f"heldout {data}", whose="the training data's")
    return None if places == tuple(range(len(known))) else torch.tensor(places)


@torch.no_grad()
def measure(
    objective: Objective,
    model: nn.Module,
    heldout: TokenCache | ImageSource,
    config: LoopConfig,
    tokenizer: VQVAE,
    *,
    unconditional: int,
    places: Tensor | None,
    dtype: torch.dtype,
    stop: Callable[[], bool] = lambda: False,
    announce: Announce = silent,
) -> dict[str, Any] | None:
    """Loss and accuracy of held-out images, evenly spread, with their class and without, in evaluation mode.

    `places` are the model's ids of the images' classes; None where they are the same. None when `stop` said so.
    """
    model.eval()
    torch.manual_seed(config.seed)  # masks and noise of kinds that draw them
    device = tokenizer.quantizer.codebook.device
    chosen = spread(len(heldout), config.heldout_images)
    advance = announce("measuring", len(chosen))
    figures: dict[str, list[dict[str, Tensor]]] = {"heldout": [], "heldout_unconditional": []}
    sizes: list[int] = []
    for tokens, labels in heldout_batches(heldout, tokenizer, chosen, dtype):
        if stop():
            model.train()
            return None
        named = labels if places is None else torch.where(labels < 0, labels, places[labels])
        given = named.masked_fill(labels < 0, unconditional)
        for name, classes in zip(figures, (given, torch.full_like(given, unconditional)), strict=True):
            with autocast(device, dtype):
                figures[name].append(objective.loss(model, tokens.to(device), classes.to(device))[1])
        sizes.append(len(labels))
        advance(sum(sizes))
    model.train()
    if not sizes:
        raise ValueError(f"heldout {config.heldout or config.data}: none of the images that are measured can be read")
    return {
        f"{kind}_{name}": value.tolist()
        for kind, batches in figures.items()
        for name, value in mean_figures(batches, sizes).items()
    }


def spread_tokens(source: TokenCache | ImageSource | ImageStream, tokenizer: VQVAE, dtype: torch.dtype) -> TokenPyramid:
    """Tokens of images from all over the data. Raises ValueError for a stream, which has no other end yet."""
    if isinstance(source, ImageStream):
        raise ValueError("a diffusion model needs the spread of its latents first; tokenise the images, then train")
    chosen = spread(len(source), 512)
    found = [tokens.packed.cpu() for tokens, _ in heldout_batches(source, tokenizer, chosen, dtype)]
    return TokenPyramid(torch.cat(found), tokenizer.schedule)


def heldout_batches(
    source: TokenCache | ImageSource, tokenizer: VQVAE, indices: np.ndarray, dtype: torch.dtype
) -> Iterator[tuple[TokenPyramid, Tensor]]:
    """Some images as tokens and labels, in batches."""
    if isinstance(source, TokenCache):
        for start in range(0, len(indices), 64):
            yield source.batch(indices[start : start + 64])
        return
    device = tokenizer.quantizer.codebook.device
    for batch in iterate_images(source, tokenizer.config.image_size, batch_size=16, indices=indices.tolist()):
        with autocast(device, dtype):
            tokens = tokenizer.encode(to_float(batch.images.to(device)))
        yield tokens, batch.labels  # outside: a generator left waiting would keep autocast, and its casts, alive


def describe_heldout(values: dict[str, Any]) -> str:
    """The line of a held-out measurement."""
    given = describe({name.removeprefix("heldout_"): value for name, value in values.items()})
    return f"{given}  without class: loss {values['heldout_unconditional_loss']:.4f}"


def describe(values: dict[str, Any]) -> str:
    """Loss and, where there are tokens, accuracy."""
    if "accuracy" not in values:
        return f"loss {values['loss']:.4f}"
    return (
        f"loss {values['loss']:.4f} (last scale {values['loss_last']:.4f})  "
        f"accuracy {values['accuracy']:.2%} (last {values['accuracy_last']:.2%})"
    )
