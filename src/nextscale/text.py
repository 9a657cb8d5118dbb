"""From prompts to what a model of prompts is conditioned on.

Shapes: B prompts, T tokens, N parts of a token, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions import Choices, TextPrompts
from nextscale.nn import TextConfig
from nextscale.prompts import hashed, tell_left_out, words_of


def text_prompts(config: TextConfig, prompts: Sequence[str], *, negative: str = "", tell: bool = False) -> TextPrompts:
    """Conditions of prompts on the CPU, with the prompt that guidance leads away from: by default the empty one.

    With `tell`, a line is logged for each prompt of which some words are left out. Raises ValueError where a prompt is
    no text, and where a frozen encoder cannot be loaded.
    """
    tokens, mask = encoded(config, [*prompts, negative], tell=tell)
    unwanted = tokens[-1:].expand(len(prompts), *tokens.shape[1:]), mask[-1:].expand(len(prompts), -1)
    return TextPrompts(tokens[:-1], mask[:-1], *unwanted)


def prompt_choices(config: TextConfig, prompts: Any, negative: str, device: torch.device) -> Choices:
    """The prompts of a call, on a device; None is the empty prompt. Raises ValueError for what is no text."""
    given = [prompts] if prompts is None or isinstance(prompts, str) else list(prompts)
    if not given:
        raise ValueError("no prompts given; name at least one, or None for unconditional")
    texts = tuple("" if prompt is None else prompt for prompt in given)
    for prompt in (*texts, negative):
        if not isinstance(prompt, str):
            raise ValueError(f"this model has no classes and draws from prompts, such as 'a red heart'; got {prompt!r}")
    return Choices(list(range(len(texts))), texts, text_prompts(config, texts, negative=negative, tell=True).to(device))


def encoded(config: TextConfig, prompts: Sequence[str], *, tell: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of the table of words (B, T, N) int64, or features (B, T, F) float16; and the mask of tokens (B, T)."""
    if config.encoder:
        from nextscale.frozen_text import frozen_encoder

        return frozen_encoder(config.encoder).encoded(prompts, config.tokens, tell=tell)
    texts = [words_of(prompt) for prompt in prompts]
    for prompt, words in zip(prompts, texts, strict=True):
        if tell:
            tell_left_out(prompt, len(words), config.tokens)
    tokens = torch.from_numpy(hashed(texts, tokens=config.tokens, rows=config.rows))
    return tokens, tokens[..., 0] > 0
