"""Results of a pipeline.

Shapes: B batch, C latent channels, (h, w) latent grid, (h_k, w_k) grid of scale k.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from nextscale.classes import ClassLike as ClassLike
from nextscale.conditions import Choices
from nextscale.pictures import to_images
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.rejection import Drawn
from nextscale.tokenizer.vqvae import VQVAE


@dataclass(frozen=True)
class Generation:
    """Images of a call and their tokens."""

    images: list[Image.Image]
    "RGB, of the model's size."
    tokens: TokenPyramid
    "What the images were decoded from, on the CPU."
    classes: list[int]
    "Class id of each image, the number of classes being the unconditional id; or which of the prompts given it has."
    seeds: list[int]
    "Seed of each image."
    scores: list[float] | None = None
    "Scores by the judge of rejection sampling; None without it."
    prompts: list[str] | None = None
    "Prompt of each image; None of a model of classes."


@dataclass(frozen=True)
class GenerationStep:
    """One finished scale of a running generation."""

    scale: int
    "Number of the scale, from 0."
    tokens: Tensor
    "(B, h_k, w_k) int64."
    accumulated: Tensor
    "Sum of all scales so far, (B, C, h, w) float32."
    tokenizer: VQVAE
    "Decodes what was accumulated."

    def preview(self) -> list[Image.Image]:
        """The images as they stand after this scale."""
        return to_images(self.tokenizer.decode_each(self.accumulated))


def joined(parts: list[Generation]) -> Generation:
    """The images of several batches as those of one."""
    if len(parts) == 1:
        return parts[0]
    return Generation(
        [image for part in parts for image in part.images],
        TokenPyramid(torch.cat([part.tokens.packed for part in parts]), parts[0].tokens.schedule),
        [label for part in parts for label in part.classes],
        [seed for part in parts for seed in part.seeds],
        None if parts[0].scores is None else [score for part in parts for score in part.scores or ()],
        None if parts[0].prompts is None else [prompt for part in parts for prompt in part.prompts or ()],
    )


def generation_of(images: list[Image.Image], drawn: Drawn, choices: Choices) -> Generation:
    """A result: what was drawn of the choices that there were, and its decoded images."""
    prompts = None if choices.prompts is None else [choices.prompts[number] for number in drawn.labels]
    return Generation(images, drawn.tokens.to("cpu"), drawn.labels, drawn.seeds, drawn.scores, prompts)
