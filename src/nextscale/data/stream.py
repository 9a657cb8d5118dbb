"""Training images as a stream: for data sets too large to index or to keep on one disk.

In each epoch, files are shuffled and divided among the processes. A process reads its files in blocks of `BLOCK`
images, which are shuffled in memory. Its position is a small dictionary, from which it continues exactly.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nextscale.data.archives import CLS, FOLDER, Layout, layout_of, streamed
from nextscale.data.captions import (
    CAPTIONS,
    NO_CAPTIONS,
    caption_columns,
    captioned,
    instead_of_template,
    named_columns,
    named_template,
    require_class_names,
    texts_in,
)
from nextscale.data.columns import (
    NO_LABELS,
    Classes,
    choose_columns,
    classes_of,
    declared_names,
    encoded,
    label_in,
    undecoded,
    warn_of_oddities,
)
from nextscale.data.decode import UnreadableImage, read_image
from nextscale.data.folders import PassedOver, table_files
from nextscale.data.loader import NO_CLASS, ImageBatch, Loader, Sample, collate, read_ahead
from nextscale.data.source import is_hub_id, load_rows
from nextscale.errors import one_line

logger = logging.getLogger("nextscale.data")

STREAMS = "a stream is a folder or file of parquet or WebDataset (.tar), or a hub id"
BLOCK = 2048
"""Images shuffled together."""

Position = dict[str, Any]
"""`epoch`; `reader`, its state at the start of a block; `used`, images of that block that were used; `seen`, images of
the epoch before that block."""


@dataclass(frozen=True)
class ImageStream:
    """Files of encoded images, with or without labels."""

    builder: str
    files: tuple[str, ...]
    image_column: str
    label_column: str
    "Empty without classes."
    classes: Classes
    labelled_by: str = ""
    "Where the labels are, for messages."
    layout: Layout | None = None
    "How members of an archive form samples; None for parquet."
    caption_columns: tuple[str, ...] = ()
    "Columns of captions; empty without."
    caption_template: str = ""
    "What captions are made of class names by, instead."

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @property
    def captioned_by(self) -> str:
        """Where captions come from, for messages; empty without."""
        if self.caption_template:
            return named_template(self.caption_template)
        if self.layout is not None:
            return self.layout.captioned_by
        return named_columns(self.caption_columns) if self.caption_columns else ""

    def rows(self, *, seed: int, epoch: int, rank: int, world: int) -> Any:
        """A `datasets.IterableDataset` over one process's share of an epoch.

        Processes take whole files in turn; where the number of files is no multiple of theirs, each takes every
        `world`-th image of all files.
        """
        from datasets.distributed import split_dataset_by_node

        files = [self.files[i] for i in np.random.default_rng([seed, epoch]).permutation(len(self.files))]
        if len(files) % world == 0:
            return self.rows_of(files[rank::world])
        return split_dataset_by_node(self.rows_of(files), rank, world)

    def rows_of(self, files: list[str]) -> Any:
        """Rows of some files, with the encoded image, the label and captions alone."""
        import datasets

        if self.layout is not None:
            return datasets.IterableDataset.from_generator(streamed, gen_kwargs={"files": files, "layout": self.layout})
        columns = [column for column in (self.image_column, self.label_column, *self.caption_columns) if column]
        return undecoded(parquet_rows(files[0], files).select_columns(columns), self.image_column)


def parquet_rows(where: str, files: list[str]) -> Any:
    names = [file if "://" in file else glob.escape(file) for file in files]
    return load_rows(where, "parquet", data_files=names, split="train", streaming=True)


def open_stream(
    spec: str,
    *,
    split: str = "train",
    classes: int = 0,
    label_column: str = "",
    image_column: str = "",
    caption_column: str = NO_CAPTIONS,
    caption_template: str = "",
) -> ImageStream:
    """Find a stream's files, columns and classes, and its captions as `open_source` does.

    Classes are those that the label column declares, the numbers below `classes`, or, in parquet files on disk, the
    labels that occur. Without labels, or with the `label_column` none, the stream has no classes. Raises ValueError.
    """
    passed = PassedOver()
    caption_column = instead_of_template(caption_column, caption_template)
    builder, files = stream_files(spec, split, passed)
    passed.log(spec)
    if builder == "webdataset":
        seen = PassedOver()
        columns = {"image_column": image_column, "label_column": label_column, "caption_column": caption_column}
        layout = layout_of(files[0], seen, where=spec, **columns)
        seen.log(f"{spec}, in its first files")
        known = archive_classes(layout, spec, classes)
        label = "label" if layout.label else ""
        by, texts = layout.column if label else "", (CAPTIONS,) if layout.captions else ()
        stream = ImageStream(builder, tuple(files), "image", label, known, by, layout, texts, caption_template)
        return with_classes(stream, spec)
    features = parquet_rows(spec, files[:1]).features
    image, label = choose_columns(features, image_column, label_column, spec)
    known = column_classes(features[label], label, files, spec, classes) if label else Classes()
    by, texts = f"column {label!r}" if label else "", caption_columns(features, caption_column, spec, (image, label))
    stream = ImageStream(builder, tuple(files), image, label, known, by, None, texts, caption_template)
    return with_classes(stream, spec)


def with_classes(stream: ImageStream, where: str) -> ImageStream:
    """The stream. Raises ValueError where a template has no classes to make captions of."""
    if stream.caption_template:
        require_class_names(stream.class_names, where)
    return stream


def archive_classes(layout: Layout, spec: str, count: int) -> Classes:
    """Classes of archives: the numbers below `count`. Raises ValueError where folders are labels or `count` is 0."""
    if layout.label == FOLDER:
        raise ValueError(
            f"data {spec}: its images lie in folders, which are classes only to those who look at all of them: leave "
            f"out --stream, or add --label-column {NO_LABELS} to train without classes"
        )
    if layout.label and not count:
        raise ValueError(f"data {spec}: labels of a stream have no names; give their number with --stream-classes")
    return numbered(count) if layout.label else Classes()


def column_classes(feature: Any, column: str, files: list[str], spec: str, count: int) -> Classes:
    """Classes of parquet files: declared ones, the numbers below `count`, or the labels that occur in the column.

    On disk the column is read, so that a wrong label is reported before training. Raises ValueError.
    """
    declared, place = declared_names(feature), f"column {column!r}"
    text = getattr(feature, "dtype", "").endswith("string")
    known = Classes(declared) if declared else numbered(count) if count and not text else None
    if any("://" in file for file in files):
        if known is None:
            raise ValueError(
                f"data {spec}: a stream from the hub needs labels that are declared, or numbers with --stream-classes; "
                f"{place} holds {'text' if text else 'numbers'}"
            )
        return known
    try:
        if known is None:
            known = classes_of(values_of(files, column), column=place, indices=column == CLS)
            warn_of_oddities(known, spec, place)
        else:
            for row, value in enumerate(values_of(files, column)):
                known.id(value, row=row, column=place)
    except ValueError as error:
        raise ValueError(f"data {spec}: {error}") from error
    return known


def numbered(count: int) -> Classes:
    """Class indices from 0."""
    return Classes(tuple(map(str, range(count))))


def values_of(files: list[str], column: str) -> Iterator[Any]:
    """The cells of a label column of parquet files; no other column is read."""
    import pyarrow.parquet as parquet

    for file in files:
        for batch in parquet.ParquetFile(file).iter_batches(columns=[column]):
            yield from (label_in(value, column) for value in batch.column(0).to_pylist())


def stream_files(spec: str, split: str, passed: PassedOver) -> tuple[str, list[str]]:
    """Builder and files of a stream. Raises ValueError."""
    found = table_files(Path(spec), split, passed)
    if found is not None:
        return found[0], [str(file) for file in found[1]]
    if Path(spec).exists() or not is_hub_id(spec):
        raise ValueError(f"data {spec}: cannot be streamed; {STREAMS}")
    return hub_files(spec, split)


def hub_files(name: str, split: str) -> tuple[str, list[str]]:
    """Builder and files of a hub set. Raises ValueError."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(name)
        files = [str(file) for file in (builder.config.data_files or {})[split]]
    except Exception as error:  # hub, fsspec and httpx raise their own kinds
        raise ValueError(f"data {name}: cannot be opened as a stream ({one_line(error)}); {STREAMS}") from error
    return "parquet" if files[0].endswith(".parquet") else "webdataset", files


@dataclass
class Missing:
    """Images of a stream without a caption, counted and named as they come: their number is not known before."""

    count: int = 0

    def add(self, name: str) -> None:
        """Count one more, and log it where the number has one digit that is not 0."""
        self.count += 1
        if not int(str(self.count)[1:] or 0):
            logger.warning("%s has no caption (%d so far)", name, self.count)


@dataclass(frozen=True, kw_only=True)
class StreamLoader(Loader):
    """Endless augmented training batches of one process from a stream."""

    stream: ImageStream
    missing: Missing = field(default_factory=Missing)
    "Images without a caption so far."

    def batches(self, start: Position | None = None) -> Generator[ImageBatch, None, None]:
        """Batches from a position on; each carries the position behind it."""
        samples: list[Sample] = []
        epochs: list[int] = []
        share = self.batch_size // self.world
        for sample, epoch, position in self.samples(start):
            samples.append(sample)
            epochs.append(epoch)
            if len(samples) == share:
                yield collate(samples, epochs, position, pinned=self.pinned)
                samples, epochs = [], []

    def samples(self, start: Position | None) -> Iterator[tuple[Sample, int, Position]]:
        """Each sample, its epoch, and the position behind it."""
        at = start or {"epoch": 0, "reader": None, "used": 0, "seen": 0}
        unreadable = 0
        while True:
            rows = self.stream.rows(seed=self.seed, epoch=at["epoch"], rank=self.rank, world=self.world)
            if at["reader"] is not None:
                rows.load_state_dict(at["reader"])
            reading, empty = iter(rows), at["seen"] == at["used"] == 0
            while block := list(islice(reading, BLOCK)):
                order = np.random.default_rng([self.seed, at["epoch"], at["seen"], self.rank]).permutation(len(block))
                read = partial(self.attempt, block, order, at)
                ahead = read_ahead(read, range(at["used"], len(block)), threads=self.threads, ahead=self.batch_size)
                for used, sample in enumerate(ahead, at["used"]):
                    if isinstance(sample, UnreadableImage):
                        unreadable += 1
                        logger.warning("skipped unreadable image %s (%d so far)", sample, unreadable)
                        if unreadable > self.limit:
                            raise ValueError(
                                f"more than {self.limit} images of the stream cannot be read; remove or replace them"
                            ) from sample
                        continue
                    empty = False
                    yield sample, at["epoch"], at | {"used": used + 1}
                at = {"epoch": at["epoch"], "reader": rows.state_dict(), "used": 0, "seen": at["seen"] + len(block)}
            if empty:
                raise ValueError("the stream gives this process no readable image; use fewer processes or more files")
            at = {"epoch": at["epoch"] + 1, "reader": None, "used": 0, "seen": 0}

    def attempt(
        self, block: list[dict[str, Any]], order: np.ndarray, at: Position, used: int
    ) -> Sample | UnreadableImage:
        """The sample at a place of a block in its order, or why it cannot be read."""
        number = (at["seen"] + used) * self.world + self.rank
        try:
            return self.sample(block[order[used]], at["epoch"], number)
        except UnreadableImage as error:
            return error

    def sample(self, row: dict[str, Any], epoch: int, number: int) -> Sample:
        """The sample in a row. Raises UnreadableImage, and ValueError for a label out of range."""
        stream = self.stream
        folder = None if "://" in stream.files[0] else Path(stream.files[0]).parent
        data, name = encoded(row[stream.image_column], f"image {number}", folder)
        label = NO_CLASS
        if stream.label_column:
            value = label_in(row[stream.label_column], stream.label_column)
            label = stream.classes.id(value, row=name, column=stream.labelled_by)
        pixels = self.augmented(read_image(data, name=name), epoch, number)
        return Sample(pixels, label, number, self.captions(row, label, name))

    def captions(self, row: dict[str, Any], label: int, name: str) -> tuple[str, ...] | None:
        """The captions in a row, or made of its class; None where the stream has none."""
        stream = self.stream
        if stream.caption_template:
            return (captioned(stream.class_names[label], stream.caption_template),)
        if not stream.caption_columns:
            return None
        found = texts_in([row[column] for column in stream.caption_columns])
        if not found:
            self.missing.add(name)
        return found
