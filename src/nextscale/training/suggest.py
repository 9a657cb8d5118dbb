"""Settings that fit the data, for those who name no preset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from nextscale.config import essential
from nextscale.data.decode import UnreadableImage
from nextscale.data.source import ImageSource
from nextscale.presets import tokenizer_presets, transformer_presets

SAMPLE = 32
"""Images whose size is looked at."""
FEW = 20_000
"""Images below which a codebook of 1,024 does: with less data, fewer codes are learned better."""


@dataclass(frozen=True)
class Suggestion:
    """Nested settings, and a line that says why."""

    settings: dict[str, Any]
    reason: str


def suggest_tokenizer(source: ImageSource) -> Suggestion:
    """Preset by the images' size; codebook, batch and steps by their number."""
    sides = [min(size) for size in sizes(source)]
    side = int(median(sides)) if sides else 64
    preset = "small-32" if side < 48 else "small-64" if side < 112 else "small-128"
    config, count = tokenizer_presets()[preset], len(source)
    size, batch = config.image_size[0], min(32, count)
    settings = {
        "model": essential(config) | {"codebook_size": 1024 if count < FEW else 4096},
        "enlarge": 1.125 if side >= 1.125 * size else 1.0,
        "batch_size": batch,
        "steps": whole(300 * count / batch, 2_000, 20_000),
    }
    return Suggestion(settings, reason(count, f"typically {side} pixels wide or high", preset, settings, ("enlarge",)))


def suggest_transformer(count: int) -> Suggestion:
    """Depth, batch and steps by the number of images."""
    depth = next((depth for images, depth in ((2_000, 4), (50_000, 6), (500_000, 10)) if count < images), 16)
    batch = min(64, count)
    settings = {
        "model": essential(transformer_presets()["small"]) | {"depth": depth},
        "batch_size": batch,
        "steps": whole(100 * count / batch, 3_000, 40_000),
    }
    return Suggestion(settings, reason(count, f"depth {depth}", "small", settings, ()))


def sizes(source: ImageSource) -> list[tuple[int, int]]:
    """Width and height of some readable images, spread over the source."""
    found = []
    for index in np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(int)):
        try:
            found.append(source.read(int(index))[0].size)
        except UnreadableImage:
            continue
    return found


def whole(value: float, low: int, high: int) -> int:
    """A number of steps between bounds, to the next hundred."""
    return min(high, max(low, 100 * math.ceil(value / 100)))


def reason(count: int, about: str, preset: str, settings: dict[str, Any], also: tuple[str, ...]) -> str:
    """The line that is printed."""
    chosen = {"preset": preset} | {name: settings[name] for name in ("batch_size", "steps", *also)}
    if "codebook_size" in settings["model"]:
        chosen["codebook_size"] = settings["model"]["codebook_size"]
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in chosen.items())
    return f"{count} images, {about}: {flags}"
