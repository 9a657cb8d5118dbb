"""What a model may be asked to show, by its classes or by prompts, and how likely it finds images given that.

Shapes: B images, L tokens, V codebook entries.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoint import ModelConfig
from nextscale.classes import Classes, class_ids, repeated
from nextscale.conditions import Choices, TextPrompts, reads_prompts
from nextscale.pyramid import TokenPyramid
from nextscale.results import Generation
from nextscale.sampling.likelihood import class_log_likelihoods, teacher_inputs, token_log_probabilities
from nextscale.text import prompt_choices
from nextscale.tokenizer.vqvae import VQVAE


class Conditioned:
    """The part of a pipeline that knows classes and prompts."""

    tokenizer: VQVAE
    transformer: Any
    config: ModelConfig
    device: Any

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; numbers where the model has none."""
        return self.config.class_names or tuple(str(index) for index in range(self.transformer.config.classes))

    @property
    def reads_prompts(self) -> bool:
        """Whether the model takes prompts where others take classes."""
        return reads_prompts(self.transformer.config)

    def class_or_none(self, label: int) -> int | None:
        """A class id as `generate` takes it: None for the unconditional class."""
        return None if label == self.transformer.config.unconditional else label

    def class_ids(self, classes: Classes) -> list[int]:
        """Ids of names, ids or None (unconditional). Raises ValueError with near matches."""
        return class_ids(classes, self.class_names, self.transformer.config)

    def choices(self, classes: Classes, negative_prompt: str = "") -> Choices:
        """Classes, or the prompts of a model that reads them, with None for neither.

        Raises ValueError for what the model does not take.
        """
        if self.reads_prompts:
            return prompt_choices(self.transformer.config.text, classes, negative_prompt, self.device)
        if negative_prompt:
            raise ValueError("negative_prompt is for models of prompts; this one draws classes")
        return Choices(self.class_ids(classes))

    def conditions(self, classes: Classes, count: int, negative_prompt: str = "") -> Tensor | TextPrompts:
        """What `count` images show: image i has the class, or prompt, i mod n of those given."""
        choices = self.choices(classes, negative_prompt)
        return choices.conditions(repeated(choices.numbers, count), self.device)

    def names_of(self, result: Generation) -> list[str | None]:
        """What each image was to show: the name of its class, or its prompt; None for neither."""
        if result.prompts is not None:
            return [prompt or None for prompt in result.prompts]
        return [self.class_names[label] if label < len(self.class_names) else None for label in result.classes]

    def logits(self, pyramid: TokenPyramid, classes: Classes) -> Tensor:
        """Teacher-forcing logits of every token, (B, L, V) float32."""
        with torch.no_grad():
            known = teacher_inputs(self.transformer, self.tokenizer.quantizer, pyramid.to(self.device))
            return self.transformer(known, self.conditions(classes, pyramid.batch_size))

    def log_likelihood(self, pyramid: TokenPyramid, classes: Classes) -> Tensor:
        """log p of every token given all coarser scales and the class, (B, L) float32 in nats (paper, eq. 6)."""
        wanted = self.conditions(classes, pyramid.batch_size)
        return token_log_probabilities(self.transformer, self.tokenizer.quantizer, pyramid.to(self.device), wanted)[0]

    def class_log_likelihoods(self, pyramid: TokenPyramid) -> Tensor:
        """log p of the tokens under every class, (B, classes) float64 in nats; its argmax classifies the images."""
        return class_log_likelihoods(self.transformer, self.tokenizer.quantizer, pyramid.to(self.device))
