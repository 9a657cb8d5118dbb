"""Prompts that a model is evaluated with: captions of the images that it is compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from nextscale.data.source import open_source
from nextscale.evaluation.config import GenerationEvaluation


def heldout_prompts(config: GenerationEvaluation) -> tuple[str, ...]:
    """A caption of each of `count` images from all over the real ones, of all where there are fewer.

    Raises ValueError where they have none.
    """
    missing = f"data {config.data}: has no captions, which a model of prompts is evaluated with; "
    if config.data.endswith((".npz", ".npy")):
        raise ValueError(f"{missing}give images")
    source = open_source(config.data, **config.columns, **config.captions)
    places = np.unique(np.linspace(0, len(source) - 1, min(config.count, len(source))).astype(np.int64))
    found = [own[0] for own in map(source.captions_of, places.tolist()) if own]
    if not found:
        raise ValueError(
            f"{missing}name their place with --caption-column, or make them of class names with "
            "--caption-template 'a {name}'"
        )
    return tuple(found)


def prompts_hash(prompts: Sequence[str]) -> str:
    """SHA-256 over prompts, in order."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
