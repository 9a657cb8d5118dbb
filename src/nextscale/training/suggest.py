"""Settings that fit the data and an evening's computing, for runs without a preset."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median
from typing import Any

from nextscale.bench.cost import training_flops
from nextscale.config import essential, from_dict
from nextscale.data.decode import UnreadableImage
from nextscale.data.source import ImageSource
from nextscale.families import family
from nextscale.families.config import family_presets, transformer_presets
from nextscale.tokenizer.config import VQVAEConfig, tokenizer_presets
from nextscale.training.images import spread

SAMPLE = 32
"""Images whose size is read."""
FEW = 20_000
"""With fewer images, a codebook of 1,024 is suggested: little data trains fewer codes better."""
EVENING = {"cpu": 1e15, "mps": 2e16, "cuda": 3e17}
"""FLOPs of about three hours: two cores at 90 GFLOP/s, a graphics chip at 2 TFLOP/s, a data centre's GPU at 30."""
TOKENIZER_FLOPS = {"small-32": 5.1e9, "small-64": 5.2e9, "small-128": 20.8e9}
"""FLOPs of training each preset on an image: a pass through encoder and decoder, and twice that backwards."""
DEPTHS = (4, 6, 10, 16)


@dataclass(frozen=True)
class Suggestion:
    """Nested settings, the same as flags, and what they were derived from."""

    settings: dict[str, Any]
    flags: dict[str, Any]
    about: str

    def without(self, named: Collection[str]) -> Suggestion:
        """The suggestion without settings that are named already; `model` stands for all of the architecture."""
        architecture = {"preset", *self.settings["model"]} if "model" in named else set()
        gone = architecture | set(named)
        return Suggestion(
            {name: value for name, value in self.settings.items() if name not in gone},
            {name: value for name, value in self.flags.items() if name not in gone},
            self.about,
        )

    @property
    def reason(self) -> str:
        """The line that is printed."""
        named = {name.replace("_", "-"): value for name, value in self.flags.items()}
        return f"{self.about}: {' '.join(f'--{name} {value}' for name, value in named.items())}"


def suggest_tokenizer(source: ImageSource, device: str) -> Suggestion:
    """Preset by the images' size, codebook by their number, batch and steps by both and the FLOPs of an evening.

    `device` is "cpu", "cuda" or "mps". Where an evening is far too short for large images, smaller ones are suggested.
    """
    sides = [min(size) for size in sizes(source)]
    side = int(median(sides)) if sides else 64
    count, evening = len(source), EVENING.get(device, EVENING["cuda"])
    batch = min(32, count)
    steps = rounded_up(300 * count / batch, 2_000, 20_000)
    preset = "small-32" if side < 48 else "small-64" if side < 112 else "small-128"
    if preset == "small-128" and evening / TOKENIZER_FLOPS[preset] < 0.25 * steps * batch:
        preset = "small-64"
    config = tokenizer_presets()[preset]
    size = config.image_size[0]
    settings = {
        "model": essential(config) | {"codebook_size": 1024 if count < FEW else 4096},
        "enlarge": 1.125 if side >= 1.125 * size else 1.0,
        "batch_size": batch,
        "steps": affordable(steps, batch, TOKENIZER_FLOPS[preset], evening),
    }
    flags = {"preset": preset} | {name: settings[name] for name in ("batch_size", "steps", "enlarge")}
    flags["codebook_size"] = settings["model"]["codebook_size"]
    about = f"{count} images, typically {side} pixels wide or high, and an evening on {device}"
    return Suggestion(settings, flags, about)


def suggest_transformer(count: int, kind: str, tokenizer: VQVAEConfig, device: str) -> Suggestion:
    """Depth, batch and steps of a kind of model by the number of images, their tokens and the FLOPs of an evening.

    The depth is the largest that suits the number of images and can take at least half of the steps it should.
    """
    evening = EVENING.get(device, EVENING["cuda"])
    deepest = next((depth for images, depth in ((2_000, 4), (50_000, 6), (500_000, 10)) if count < images), 16)
    batch = min(64, count)
    steps = rounded_up(100 * count / batch, 3_000, 40_000)
    small = essential(transformer_presets()["small"])
    shared = {name: getattr(tokenizer, name) for name in ("scales", "codebook_size", "latent_channels")}
    costs = {
        depth: training_flops(from_dict(family(kind).config, small | shared | {"depth": depth})) for depth in DEPTHS
    }
    suitable = [depth for depth in DEPTHS if depth <= deepest and evening / costs[depth] >= 0.5 * steps * batch]
    depth = suitable[-1] if suitable else DEPTHS[0]
    settings = {
        "model": small | {"depth": depth},
        "batch_size": batch,
        "steps": affordable(steps, batch, costs[depth], evening),
    }
    flags = {"preset": "small", "depth": depth, "batch_size": batch, "steps": settings["steps"]}
    length = tokenizer.schedule.length
    return Suggestion(settings, flags, f"{count} images of {length} tokens, and an evening on {device}")


def suggest_one_step(source: ImageSource, kind: str, device: str) -> Suggestion:
    """Batch and steps of the small preset of a kind by the number of images and the FLOPs of an evening.

    Images of another size are resized to the preset's.
    """
    count, evening = len(source), EVENING.get(device, EVENING["cuda"])
    config = family_presets(kind)["small"]
    batch = min(32, count)
    steps = affordable(rounded_up(300 * count / batch, 3_000, 100_000), batch, training_flops(config), evening)
    settings = {"model": essential(config), "batch_size": batch, "steps": steps}
    flags = {"preset": "small", "batch_size": batch, "steps": steps}
    side = config.image_size[0]
    return Suggestion(settings, flags, f"{count} images at {side} pixels, and an evening on {device}")


def sizes(source: ImageSource) -> list[tuple[int, int]]:
    """Width and height of some readable images, spread over the source."""
    found = []
    for index in spread(len(source), SAMPLE):
        try:
            found.append(source.read(int(index))[0].size)
        except UnreadableImage:
            continue
    return found


def rounded_up(value: float, low: int, high: int) -> int:
    """A number of steps, rounded up to hundreds, between bounds."""
    return min(high, max(low, 100 * math.ceil(value / 100)))


def affordable(steps: int, batch: int, flops: float, evening: float) -> int:
    """The steps, or as many hundreds as an evening allows at so many FLOPs an image; at least 500."""
    return min(steps, max(500, 100 * math.floor(evening / flops / batch / 100)))
