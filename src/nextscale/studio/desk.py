"""What all tabs share: the models, their visitors, and a folder for all files.

Imports no gradio, which looks for its folder when it is imported.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any
from zipfile import ZipFile

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nextscale.catalogue import find_model
from nextscale.files import complete_file
from nextscale.pipeline import VARPipeline
from nextscale.studio.jobs import Visitors
from nextscale.studio.pictures import SHARE
from nextscale.studio.shelf import Opening, Shelf, release_memory

VARIABLE = "GRADIO_TEMP_DIR"
NO_CLASS = "(no class)"
FRESH = 10**6
"""Seeds drawn are below: short enough to be read and typed."""
LONGEST = 50
"""Characters of a class or prompt in the name of a file."""
NO_NAME = re.compile(r"[/\x00-\x1f\x7f\ud800-\udfff]")
"""Characters that names of files may not hold."""
SETTINGS_KEY = "nextscale"
"""PNG text chunk with the settings that made the image, as JSON."""


def temporary_folder() -> Path:
    """A new folder for the files of a studio. Raises ValueError where none can be made."""
    try:
        return Path(tempfile.mkdtemp(prefix="nextscale-studio-"))
    except OSError as error:
        raise ValueError(
            f"no temporary folder can be made ({' '.join(str(error).split())}); set TMPDIR to a writable folder"
        ) from error


def take_files(folder: Path) -> None:
    """Have gradio keep uploads and its copies of files there: its own folder is shared by all users of a machine."""
    os.environ[VARIABLE] = str(folder)


def release_files(folder: Path) -> None:
    """Undo `take_files`."""
    if os.environ.get(VARIABLE) == str(folder):
        del os.environ[VARIABLE]


@dataclass
class Desk:
    """The model, a rival for comparison, their visitors, and the folder of all files."""

    pipeline: VARPipeline
    model: str
    rival: VARPipeline | None = None
    results: tuple[Path, ...] = ()
    "Folders with result files of scaling and comparison runs."
    folder: Path = field(default_factory=temporary_folder)
    "All files of the page: uploads, previews, images. Removed by `close`."
    previews: float = SHARE
    "Time for previews as a share of the time for sampling."
    shelf: Shelf | None = None
    "Models that the page offers instead of this one."
    switched: Event = field(default_factory=Event)
    "Set when another model is open, for which the page has to be made anew."

    @cached_property
    def visitors(self) -> Visitors:
        return Visitors(self.folder)

    @property
    def class_choices(self) -> list[str]:
        return [*self.pipeline.class_names, NO_CLASS]

    def switch(self, model: str) -> Iterator[str]:
        """Open a model of the shelf in place of this one; yields what is done.

        The present model is let go first, so that two need not fit. Raises ValueError for a model that cannot be
        opened; then this one is opened again.
        """
        assert self.shelf is not None
        if model == self.model:
            raise ValueError(f"{model} is open already")
        find_model(model).config()  # raises before anything is let go
        yield f"Opening {model} ..."
        kept = self.rival if self.shelf.rival else None
        self.pipeline, self.rival = Opening(model), kept  # pyright: ignore[reportAttributeAccessIssue]
        release_memory()
        try:
            self.pipeline, self.rival = self.shelf.open(model, kept)
        except Exception:
            self.pipeline, self.rival = self.shelf.open(self.model, kept)
            raise
        self.model = model
        self.switched.set()
        yield f"{model} is open."

    def turn_over(self) -> None:
        """End the jobs of the model before, and forget them: they are of a page that is no more."""
        self.visitors.end_jobs()
        self.switched.clear()

    def label_of(self, name: str | None) -> Any:
        """A class, or a prompt, as the pipeline takes it."""
        return None if name in (NO_CLASS, None, "") else name

    def named(self, name: str) -> dict[str, str]:
        """What the settings of an image say of its class or prompt."""
        return {"prompt" if self.pipeline.reads_prompts else "class": name}

    def saved(self, image: Image.Image, settings: dict[str, Any]) -> str:
        """Write a PNG for download that holds its settings, in a folder of its own; returns its path."""
        shows = NO_NAME.sub("-", settings.get("prompt", settings.get("class")) or "image")
        name = f"{shows[:LONGEST]}-seed-{settings['seed']}.png"
        path = self.folder / f"image-{secrets.token_hex(8)}" / name
        facts = PngInfo()
        facts.add_text(SETTINGS_KEY, json.dumps({"model": self.model, "precision": self.pipeline.precision} | settings))
        with complete_file(path) as partial:  # a photo of 12 megapixels takes seconds at higher levels
            image.save(partial, format="PNG", pnginfo=facts, compress_level=1)
        return str(path)

    def zipped(self, made: list[tuple[str, str]]) -> str:
        """A new ZIP of finished images; returns its path. Raises ValueError where there are none."""
        if not made:
            raise ValueError("there are no images yet: generate some first")
        path = self.folder / f"zip-{secrets.token_hex(8)}" / "nextscale.zip"
        path.parent.mkdir()
        with ZipFile(path, "w") as together:  # PNG is compressed already
            for number, (one, _) in enumerate(reversed(made), start=1):
                together.write(one, f"{number:03d}-{Path(one).name}")
        return str(path)

    def close(self) -> None:
        """Stop what runs, and remove all files."""
        self.visitors.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        release_files(self.folder)


def settings_in(path: str) -> dict[str, Any]:
    """The settings that a PNG of a studio holds. Raises ValueError for a file without them."""
    try:
        with Image.open(path) as image:
            found = json.loads(image.info[SETTINGS_KEY])
        if not isinstance(found, dict):
            raise TypeError
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{Path(path).name}: holds no settings; a PNG that was downloaded from here does") from error
    return found


def seed_of(value: float | None, fresh: bool) -> int:
    """A new seed, or the one that was typed. Raises ValueError for what is no seed."""
    if fresh or value is None:
        return secrets.randbelow(FRESH)
    if value != int(value) or not 0 <= value < 2**53:
        raise ValueError(f"a seed is a whole number from 0 on, got {value}")
    return int(value)
