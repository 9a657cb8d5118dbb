"""Training images read as a stream: sets too large to index or to keep on one disk.

Files are shuffled and shared out to the processes anew each epoch; a process reads its files in blocks of some
thousand images, shuffled in memory. Where it stands is a small dictionary, from which it continues exactly.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextscale.data.decode import UnreadableImage, decode_rgb
from nextscale.data.loader import NO_CLASS, ImageBatch, collate
from nextscale.data.source import IMAGE_COLUMNS, LABEL_COLUMNS, load_rows
from nextscale.data.transform import random_crop

logger = logging.getLogger("nextscale.data")

STREAMS = "a stream is a folder or file of parquet or WebDataset (.tar), or a hub id"
BLOCK = 2048
"""Images that are shuffled together."""

Position = dict[str, Any]
"""Epoch, state of the reader at the start of a block, images of that block already used, images of the epoch so far."""


@dataclass(frozen=True)
class ImageStream:
    """Files of encoded images with labels."""

    builder: str
    files: tuple[str, ...]
    image_column: str
    label_column: str
    class_names: tuple[str, ...]

    def rows(self, *, seed: int, epoch: int, rank: int, world: int) -> Any:
        """A `datasets.IterableDataset` over one process's share of an epoch.

        Processes take whole files in turn; where there are too few, each takes every `world`-th image of all.
        """
        from datasets.distributed import split_dataset_by_node

        files = [self.files[i] for i in np.random.default_rng([seed, epoch]).permutation(len(self.files))]
        whole = len(files) % world == 0
        mine = files[rank::world] if whole else files
        rows = undecoded(load_rows(mine[0], self.builder, data_files=mine, split="train", streaming=True), self)
        return rows if whole else split_dataset_by_node(rows, rank, world)


def undecoded(rows: Any, stream: ImageStream) -> Any:
    """Rows of encoded images and labels alone."""
    import datasets

    columns = [column for column in (stream.image_column, stream.label_column) if column]
    rows = rows.select_columns(columns)
    return rows.cast_column(stream.image_column, datasets.Image(decode=False))


def open_stream(spec: str, *, split: str = "train", classes: int = 0) -> ImageStream:
    """Look at a stream's files and columns.

    Labels are named by their column, or numbers below `classes`; without labels the stream is unconditional.
    Raises ValueError.
    """
    import datasets

    builder, files = stream_files(spec, split)
    rows = load_rows(spec, builder, data_files=files[:1], split="train", streaming=True)
    features = rows.features or next(iter(rows.take(1)), {})
    image = next((name for name in IMAGE_COLUMNS if name in features), None)
    if image is None:
        raise ValueError(f"data {spec}: has no column 'image'; its columns are {', '.join(features)}")
    label = next((name for name in LABEL_COLUMNS if name in features), "")
    feature = features[label] if label else None
    names: tuple[str, ...] = ()
    if isinstance(feature, datasets.ClassLabel) and feature.names:
        names = tuple(feature.names)
    elif label and classes:
        names = tuple(str(index) for index in range(classes))
    elif label:
        raise ValueError(f"data {spec}: labels of a stream have no names; give their number with --stream-classes")
    return ImageStream(builder, tuple(files), image, label, names)


def stream_files(spec: str, split: str) -> tuple[str, list[str]]:
    """Builder and files of a stream. Raises ValueError."""
    path = Path(spec)
    for suffix, builder in ((".parquet", "parquet"), (".tar", "webdataset")):
        found = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path] if path.suffix == suffix else []
        if found and all(file.is_file() for file in found):
            return builder, [str(file) for file in found]
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", spec):
        raise ValueError(f"data {spec}: cannot be streamed; {STREAMS}")
    return hub_files(spec, split)


def hub_files(name: str, split: str) -> tuple[str, list[str]]:
    """Builder and files of a hub set. Raises ValueError."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(name)
        files = [str(file) for file in (builder.config.data_files or {})[split]]
    except Exception as error:  # hub, fsspec and httpx raise their own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"data {name}: cannot be opened as a stream ({reason}); {STREAMS}") from error
    kind = "parquet" if files[0].endswith(".parquet") else "webdataset"
    return kind, files


@dataclass(frozen=True, kw_only=True)
class StreamLoader:
    """Endless augmented training batches of one process from a stream."""

    stream: ImageStream
    size: tuple[int, int]
    "Height and width in pixels."
    batch_size: int
    "Images of all processes together."
    seed: int = 0
    rank: int = 0
    world: int = 1
    enlarge: float = 1.125
    flip: bool = False
    limit: int = 100
    "Unreadable images tolerated."

    def batches(self, start: Position | None = None) -> Generator[ImageBatch, None, None]:
        """Batches from a position on; each tells the position behind it."""
        samples: list[tuple[np.ndarray, int, int]] = []
        epochs: list[int] = []
        share = self.batch_size // self.world
        for sample, epoch, position in self.samples(start):
            samples.append(sample)
            epochs.append(epoch)
            if len(samples) == share:
                yield collate(samples, epochs, position)
                samples, epochs = [], []

    def samples(self, start: Position | None) -> Iterator[tuple[tuple[np.ndarray, int, int], int, Position]]:
        """Pixels, label and number of each image, its epoch, and the position behind it."""
        at = start or {"epoch": 0, "reader": None, "used": 0, "seen": 0}
        unreadable = 0
        while True:
            rows = self.stream.rows(seed=self.seed, epoch=at["epoch"], rank=self.rank, world=self.world)
            if at["reader"] is not None:
                rows.load_state_dict(at["reader"])
            reading, empty = iter(rows), at["seen"] == 0
            while block := [row for _, row in zip(range(BLOCK), reading, strict=False)]:
                order = np.random.default_rng([self.seed, at["epoch"], at["seen"], self.rank]).permutation(len(block))
                for used in range(at["used"], len(block)):
                    number = (at["seen"] + used) * self.world + self.rank
                    try:
                        sample = self.sample(block[order[used]], at["epoch"], number)
                    except UnreadableImage as error:
                        unreadable += 1
                        logger.warning("skipped unreadable image %s (%d so far)", error, unreadable)
                        if unreadable > self.limit:
                            raise ValueError(
                                f"more than {self.limit} images of the stream cannot be read; remove or replace them"
                            ) from error
                        continue
                    empty = False
                    yield sample, at["epoch"], at | {"used": used + 1}
                at = {"epoch": at["epoch"], "reader": rows.state_dict(), "used": 0, "seen": at["seen"] + len(block)}
            if empty:
                raise ValueError("the stream gives this process no readable image; use fewer processes or more files")
            at = {"epoch": at["epoch"] + 1, "reader": None, "used": 0, "seen": 0}

    def sample(self, row: dict[str, Any], epoch: int, number: int) -> tuple[np.ndarray, int, int]:
        """Pixels (H, W, 3), label and number. Raises UnreadableImage, and ValueError for a label out of range."""
        value = row[self.stream.image_column]
        name = (value or {}).get("path") or f"image {number}"
        if not value or not value.get("bytes"):
            raise UnreadableImage(f"{name}: holds no image data")
        label = NO_CLASS
        if self.stream.label_column:
            label = int(row[self.stream.label_column])
            if not 0 <= label < len(self.stream.class_names):
                raise ValueError(f"{name}: has label {label}, expected 0 to {len(self.stream.class_names) - 1}")
        generator = np.random.default_rng([self.seed, epoch, number])
        image = decode_rgb(value["bytes"], name=name)
        pixels = random_crop(image, self.size, generator=generator, enlarge=self.enlarge, flip=self.flip)
        return pixels, label, number
