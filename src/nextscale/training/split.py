"""Images that are set aside to measure on, where no held-out data is given, and which of them are looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from nextscale.data.source import ImageSource
from nextscale.data.tokens import TokenCache

Source = TypeVar("Source", bound=ImageSource | TokenCache)
MOST = 512
"""Images set aside at most: more measure no better what a training needs to know."""


def set_aside(source: Source, share: float) -> tuple[Source, Source | None]:
    """What is trained on and what is measured on: a share of the images, at least 1 and at most 512.

    Which images depends on their number alone, so that both stages and all seeds leave out the same. Nothing is set
    aside of a single image, or with a share of 0.
    """
    count = min(MOST, max(1, round(share * len(source))), len(source) - 1) if share else 0
    if count < 1:
        return source, None
    places = np.arange(len(source)) if isinstance(source, ImageSource) else np.asarray(source.rows["index"][:])
    chance = np.random.default_rng(0).random(int(places.max()) + 1)[places]  # of an image, whoever its neighbours are
    aside = np.zeros(len(source), dtype=bool)
    aside[np.argsort(chance, kind="stable")[:count]] = True
    return part(source, ~aside), part(source, aside)


def part(source: Source, chosen: np.ndarray) -> Source:
    """The images of a source that a mask (N,) names, in order."""
    indices = np.flatnonzero(chosen)
    rows: Any = source.rows.select(indices) if hasattr(source.rows, "select") else [source.rows[i] for i in indices]
    if isinstance(source, ImageSource):
        labels = None if source.labels is None else np.asarray(source.labels)[indices]
        return replace(source, rows=rows, labels=labels)
    return replace(source, rows=rows)


def spread(length: int, most: int) -> np.ndarray:
    """Indices of up to `most` of `length` images, evenly spread: sets lie class by class."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).astype(np.int64))
