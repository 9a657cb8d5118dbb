"""What all tabs share: the models, settings as controls give them, and pictures large enough to look at.

Shapes: (H, W) pixels.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nextscale.files import complete_file
from nextscale.pictures import grid
from nextscale.pipeline import VARPipeline

NO_CLASS = "(no class)"
LARGE = 384
"""Pixels that the shorter side of a picture has at least when it is shown by itself."""
MOST_PIXELS = 25_000_000
"""Pixels of an upload at most."""
SETTINGS_KEY = "nextscale"
"""PNG text chunk with the settings that made the image, as JSON."""


@dataclass
class Desk:
    """The model on show, its rival for comparison, and where files for download go."""

    pipeline: VARPipeline
    model: str
    rival: VARPipeline | None = None
    results: tuple[Path, ...] = ()
    "Folders with result files of scaling and comparison runs."
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="nextscale-studio-")))

    @property
    def class_choices(self) -> list[str]:
        return [*self.pipeline.class_names, NO_CLASS]

    def label_of(self, name: str | None) -> Any:
        """A class as the pipeline takes it."""
        return None if name in (NO_CLASS, None, "") else name

    def saved(self, image: Image.Image, settings: dict[str, Any]) -> str:
        """A PNG with its settings inside, ready for download; returns its path."""
        name = f"{settings['class'] or 'image'}-{settings['seed']}-{secrets.token_hex(3)}.png".replace("/", "-")
        path = self.folder / name
        facts = PngInfo()
        facts.add_text(SETTINGS_KEY, json.dumps({"model": self.model, "precision": self.pipeline.precision} | settings))
        with complete_file(path) as partial:
            image.save(partial, format="PNG", pnginfo=facts)
        return str(path)


def seed_of(value: float | None, fresh: bool) -> int:
    """The seed to use: a new one, or what was typed. Raises ValueError for what is no seed."""
    if fresh or value is None:
        return secrets.randbelow(2**31)
    if value != int(value) or not 0 <= value < 2**53:
        raise ValueError(f"a seed is a whole number from 0 on, got {value}")
    return int(value)


def require_size(image: Image.Image) -> None:
    """Raises ValueError for an upload of too many pixels."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"the image has {image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are taken")


def large(image: Image.Image, least: int = LARGE) -> Image.Image:
    """An image enlarged by a whole factor until its shorter side has `least` pixels."""
    factor = max(1, -(-least // min(image.size)))
    return (
        image if factor == 1 else image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    )


def strip(frames: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Steps as columns, images as rows; each enlarged to 96 pixels at least."""
    rows = zip(*frames, strict=True)
    return grid([large(image, 96) for row in rows for image in row], columns=len(frames), gap=4)
