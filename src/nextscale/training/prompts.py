"""Captions as prompts: which of them and of their words are left out in training, and what a run says of them.

Shapes: B captions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextscale.checkpoint import fingerprint
from nextscale.conditions import TextPrompts
from nextscale.data.stream import ImageStream
from nextscale.data.tokens import TokenCache
from nextscale.frozen_text import frozen_encoder
from nextscale.nn import TextConfig
from nextscale.text import text_prompts
from nextscale.training.config import TransformerTraining
from nextscale.training.images import Samples, spread
from nextscale.training.transfer import to_device

EXAMPLES = 16
"""Prompts that a model brings along to try."""


def text_of(config: TransformerTraining) -> TextConfig | None:
    """How the model of a run is to read prompts; None for a model of classes."""
    if config.condition != "text":
        return None
    encoder = config.text_encoder
    features = frozen_encoder(encoder).features if encoder else 0
    return TextConfig(tokens=config.text_tokens, encoder=encoder, features=features)


def remember_features(text: TextConfig, source: Samples, data: str) -> None:
    """Compute a frozen encoder's features of all captions once; beside the tokens of a cache, once for all runs."""
    if not text.encoder or isinstance(source, ImageStream):
        return
    captions = [*dict.fromkeys(caption for i in range(len(source)) for caption in source.captions_of(i)), ""]
    encoder = frozen_encoder(text.encoder)
    facts = repr((text.encoder, text.tokens, fingerprint(encoder.network), captions)).encode()
    name = f"text-{hashlib.sha256(facts).hexdigest()[:16]}.safetensors"
    encoder.remember(captions, text.tokens, Path(data) / name if isinstance(source, TokenCache) else None)


def require_captions(source: Samples, data: str) -> None:
    """Raises ValueError where data has no captions."""
    if not source.captioned_by:
        advice = "name where they are with --caption-column"
        if source.class_names:
            advice += ", or make them of the class names with --caption-template 'a {name}'"
        raise ValueError(f"data {data}: has no captions, which --condition text trains on; {advice}")


def kept_words(captions: Sequence[str], chances: Tensor, *, captions_dropped: float, words_dropped: float) -> list[str]:
    """Captions, a share of them empty, and the words of the others each left out with a probability, but never all.

    `chances` (B,) uniform in [0, 1) decide both, so that an image's words depend neither on its batch nor on the rank.
    """
    found = []
    for caption, chance in zip(captions, chances.tolist(), strict=True):
        words = [] if chance < captions_dropped else caption.split()
        if words and words_dropped:
            draws = np.random.default_rng(int(chance * 2**53)).random(len(words))
            words = [word for word, draw in zip(words, draws, strict=True) if draw >= words_dropped] or words
        found.append(" ".join(words))
    return found


def training_prompts(
    config: TransformerTraining, captions: Sequence[str], chances: Tensor, device: torch.device
) -> TextPrompts:
    """Conditions of a batch in training, on a device that is not waited for."""
    text = config.model.text
    assert text is not None
    dropped = 0.0 if text.encoder else config.word_dropout  # a frozen encoder's features are those of whole captions
    kept = kept_words(captions, chances, captions_dropped=config.class_dropout, words_dropped=dropped)
    return TextPrompts(*(to_device(each.contiguous(), device) for each in text_prompts(text, kept).tensors))


def example_prompts(source: Samples) -> tuple[str, ...]:
    """Some captions from all over the data; none of a stream, of which only the start is known."""
    if isinstance(source, ImageStream):
        return ()
    found = (source.captions_of(index) for index in spread(len(source), 16 * EXAMPLES).tolist())
    return some_prompts(own[0] for own in found if own)


def some_prompts(captions: Iterable[str]) -> tuple[str, ...]:
    """The first few captions that differ."""
    return tuple(islice(dict.fromkeys(caption for caption in captions if caption), EXAMPLES))
