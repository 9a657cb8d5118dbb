"""Measurements of both stages on images that are not trained on; they leave the model in evaluation mode.

Stage 1: how well images are reconstructed after each scale, and which codes are used. Stage 2: loss and accuracy with
the class and without.
Shapes: B batch, K scales, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextscale.classes import match_classes
from nextscale.data.loader import iterate_images
from nextscale.data.source import ImageSource
from nextscale.data.stream import ImageStream
from nextscale.data.tokens import TokenCache
from nextscale.families.base import Figures
from nextscale.pictures import psnr, to_float
from nextscale.progress import Advance, Announce, silent
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import autocast
from nextscale.text import text_prompts
from nextscale.tokenizer.quantizer import CodebookUsage
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.config import LoopConfig, TokenizerTraining, TransformerTraining
from nextscale.training.images import Samples, spread
from nextscale.training.tokens import encode
from nextscale.training.transfer import to_device

BATCH = 16
"""Images of a batch."""
STRIPS = 8
"""Images of which stage 1 draws what every scale adds."""


@torch.no_grad()
def measure_tokenizer(
    model: VQVAE, images: ImageSource, config: TokenizerTraining, dtype: torch.dtype, *, announce: Announce = silent
) -> tuple[dict[str, Any], Tensor]:
    """PSNR, PSNR after each scale and codebook usage of images that are spread evenly, and strips to look at.

    The codes of `heldout_images` images are counted; `decoded_images` of them are decoded at every scale. Strips
    (n, 1 + K, 3, H, W) hold an image and what each scale makes of it.
    """
    chosen = spread(len(images), config.heldout_images)
    decoded = chosen[spread(len(chosen), config.decoded_images)]
    usage = CodebookUsage(len(model.schedule), config.model.codebook_size, model.device)
    advance, done = announce("measuring", len(chosen) + len(decoded)), 0
    found: list[Tensor] = []  # (K, B) each
    strips = torch.empty(0)
    model.eval()
    for indices, decode in ((chosen, False), (decoded, True)):
        for batch in iterate_images(images, config.model.image_size, batch_size=BATCH, indices=indices.tolist()):
            pixels = to_float(batch.images.to(model.device))
            with autocast(model.device, dtype):
                tokens = model.encode(pixels)
                stages = torch.stack(list(model.decode_scales(tokens))) if decode else None  # (K, B, 3, H, W)
            if stages is None:
                usage.add(tokens)
            else:
                found.append(psnr(stages, pixels))
                if not len(strips):
                    strips = torch.cat([pixels[None], stages.float()]).transpose(0, 1)[:STRIPS]
            done += len(pixels)
            advance(done)
    if not found:
        raise nothing_readable(config)
    after = torch.cat(found, dim=1).mean(dim=1).tolist()
    codes = {name: value.tolist() for name, value in usage.summary().items()}
    return {"psnr": after[-1], "psnr_after": after, **codes}, strips


def reconstruction_line(figures: dict[str, Any]) -> str:
    """A measurement of stage 1 in a line."""
    perplexity = ", ".join(f"{value:.0f}" for value in figures["perplexity"])
    return f"PSNR {figures['psnr']:.2f} dB, codes used {figures['used']:.1%}, perplexity {perplexity}"


def class_places(named: Sequence[str], known: Sequence[str], data: str) -> Tensor | None:
    """Ids in `known` of the classes `named`; None where they are the same, or one side has no names.

    Raises ValueError for a class that is not known.
    """
    if not named or not known or tuple(named) == tuple(known):
        return None
    places = match_classes(named, known, where=f"heldout {data}", whose="the training data's")
    return None if places == tuple(range(len(known))) else torch.tensor(places)


@torch.no_grad()
def measure_transformer(
    figures_of: Callable[[Any, Any], Figures],
    batches: Iterable[tuple[Any, Tensor | Sequence[str]]],
    config: TransformerTraining,
    places: Tensor | None,
    *,
    advance: Advance = lambda done: None,
) -> dict[str, Any]:
    """Mean figures of `heldout_batches`, with their class or caption and without.

    `figures_of` gives those of tokens or images and class ids, or prompts. `places` are the model's ids of the images'
    classes, None where they are the same.
    """
    torch.manual_seed(config.seed)  # masks and noise of kinds that draw them
    figures: dict[str, list[Figures]] = {"heldout": [], "heldout_unconditional": []}
    sizes: list[int] = []
    for inputs, labels in batches:
        for name, wanted in zip(figures, with_and_without(labels, config.model, places), strict=True):
            figures[name].append(figures_of(inputs, wanted))
        sizes.append(len(labels))
        advance(sum(sizes))
    if not sizes:
        raise nothing_readable(config)
    return {
        f"{kind}_{name}": value.tolist()
        for kind, batches in figures.items()
        for name, value in mean_figures(batches, sizes).items()
    }


def with_and_without(labels: Tensor | Sequence[str], architecture: Any, places: Tensor | None) -> tuple[Any, Any]:
    """Class ids of labels, or conditions of captions; and those of none."""
    if not isinstance(labels, Tensor):
        return text_prompts(architecture.text, labels), text_prompts(architecture.text, [""] * len(labels))
    unconditional = torch.full_like(labels, architecture.unconditional)
    ids = labels if places is None else places[labels]
    return torch.where(labels < 0, unconditional, ids), unconditional


def mean_figures(figures: Sequence[Figures], weights: Sequence[int]) -> Figures:
    """Weighted mean of the figures of several batches."""
    device = next(iter(figures[0].values())).device
    share = to_device(torch.tensor(weights, dtype=torch.float32) / sum(weights), device)
    return {
        name: torch.tensordot(share, torch.stack([one[name].float().to(device) for one in figures]), dims=1)
        for name in figures[0]
    }


def prediction_line(values: dict[str, Any]) -> str:
    """Loss and accuracy in a line; of models without accuracy, all single figures."""
    if "accuracy" not in values:
        return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float))
    return (
        f"loss {values['loss']:.4f} (last scale {values['loss_last']:.4f})  "
        f"accuracy {values['accuracy']:.2%} (last {values['accuracy_last']:.2%})"
    )


def heldout_line(values: dict[str, Any], condition: str = "class") -> str:
    """A measurement of stage 2 in a line; `condition` is what the model reads."""
    prefix = "heldout_unconditional_"
    unconditional = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    conditional = {name.removeprefix("heldout_"): values[name] for name in values if not name.startswith(prefix)}
    losses = {"loss": unconditional["loss"]} if "loss" in unconditional else unconditional
    return f"{prediction_line(conditional)}  without {condition}: {prediction_line(losses)}"


def nothing_readable(config: LoopConfig) -> ValueError:
    """The error of a measurement that found no image."""
    return ValueError(f"heldout {config.heldout or config.data}: none of the images that are measured can be read")


def spread_tokens(source: Samples, tokenizer: VQVAE, dtype: torch.dtype) -> TokenPyramid:
    """Tokens of images from all over the data. Raises ValueError for a stream, of which only the start is known."""
    if isinstance(source, ImageStream):
        raise ValueError("a diffusion model needs the spread of its latents first; tokenise the images, then train")
    chosen = spread(len(source), 512)
    found = heldout_batches(source, tokenizer, tokenizer.config.image_size, chosen, dtype)
    packed = [tokens.packed.cpu() for tokens, _ in found]
    return TokenPyramid(torch.cat(packed), tokenizer.schedule)


def heldout_batches(
    source: TokenCache | ImageSource,
    tokenizer: VQVAE | None,
    size: tuple[int, int],
    indices: np.ndarray,
    dtype: torch.dtype,
    *,
    captions: bool = False,
) -> Iterator[tuple[Any, Any]]:
    """Some images as tokens and labels, in batches; without a tokenizer, the images (B, 3, H, W) in [-1, 1].

    With `captions`, the first of each image in the place of its label, empty where it has none.
    """

    def told(labels: Tensor, chosen: np.ndarray) -> Tensor | list[str]:
        return [(source.captions_of(i) or ("",))[0] for i in chosen.tolist()] if captions else labels

    if isinstance(source, TokenCache):
        for start in range(0, len(indices), 64):
            chosen = indices[start : start + 64]
            tokens, labels = source.batch(chosen)
            yield tokens, told(labels, chosen)
        return
    for batch in iterate_images(source, size, batch_size=BATCH, indices=indices.tolist()):
        inputs = to_float(batch.images) if tokenizer is None else encode(tokenizer, batch.images, dtype)
        yield inputs, told(batch.labels, batch.indices.numpy())
