"""The identity of a data set: wherever it is stored (`data_identity`), and on this machine (`stamp`)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nextscale.data.source import ImageSource
from nextscale.data.stream import ImageStream
from nextscale.data.tokens import TokenCache

TOKEN_ROWS = 4096
"""Images of a token cache whose tokens are hashed; labels are hashed of all."""


class FileOfImages(Protocol):
    """One file that holds all images, such as an .npz."""

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class DataIdentity:
    """What a data set holds. It stays the same when the set is moved or its path is written otherwise."""

    count: int
    "Number of images; 0 for a stream, where it is not known."
    class_names: tuple[str, ...]
    "In the order of the class ids."
    fingerprint: str
    "SHA-256 over file names below the common folder, sizes, labels, class names and captions; or over tokens instead."


def data_identity(source: ImageSource | ImageStream | TokenCache) -> DataIdentity:
    """The identity of images, of a stream of them, or of a token cache.

    Contents of image files are not read: a file edited in place to the same size goes unnoticed.
    """
    if isinstance(source, ImageStream):
        count, facts = 0, stream_facts(source)
    elif isinstance(source, TokenCache):
        count, facts = len(source), [*token_facts(source), *caption_facts(source)]
    else:
        count, facts = len(source), [*image_facts(source), labels_hash(source.labels), *caption_facts(source)]
    names = source.class_names
    return DataIdentity(count, tuple(names), digest(["classes", *names], facts))


def stamp(source: ImageSource | FileOfImages) -> str:
    """SHA-256 over the files on this machine (resolved path, size, time), labels and class names.

    A key for caches: it changes whenever a file is written.
    """
    if not isinstance(source, ImageSource):
        return digest(files_here([source.path]))
    facts = files_here(source.rows) if is_files(source.rows) else rows_here(source)
    return digest(["classes", *source.class_names], facts, [source.image_column, labels_hash(source.labels)])


def image_facts(source: ImageSource) -> Iterator[Any]:
    """Name and number of bytes of each image, in order; for images inside a table the number alone."""
    if is_files(source.rows):
        yield from portable_files(source.rows)
        return
    for column in image_columns(source):
        lengths, places = lengths_and_paths(column)
        if "size" in column:  # in archives
            yield from zip(places, column["size"].to_pylist(), strict=True)
        elif None in lengths:  # beside the table
            yield from zip(places, map(size_of, beside(source, places)), strict=True)
        else:
            yield from lengths


def image_columns(source: ImageSource) -> Iterator[dict[str, Any]]:
    """The image column of a table in parts, as arrow arrays by field; only the fields used are read from disk."""
    import pyarrow as arrow

    for table in source.rows.with_format("arrow").iter(batch_size=1000):
        for part in table.column(source.image_column).chunks:
            absent = {"bytes": arrow.nulls(len(part), arrow.binary())}
            if arrow.types.is_struct(part.type):
                yield absent | {one.name: part.field(one.name) for one in part.type}
            elif arrow.types.is_string(part.type) or arrow.types.is_large_string(part.type):
                yield absent | {"path": part}
            else:
                yield {"bytes": part}


def lengths_and_paths(column: dict[str, Any]) -> tuple[list[int | None], list[str]]:
    """Number of bytes of each image (None where it is not in the table) and its path (empty where it has none)."""
    import pyarrow.compute

    lengths = pyarrow.compute.call_function("binary_length", [column["bytes"]]).to_pylist()
    paths = column["path"].to_pylist() if "path" in column else [""] * len(lengths)
    return lengths, [path or "" for path in paths]


def beside(source: ImageSource, paths: Sequence[str]) -> list[Path]:
    """Files whose paths are in a table."""
    return [(source.folder or Path()) / path for path in paths]


def stream_facts(stream: ImageStream) -> Iterator[Any]:
    """Format, columns, and name and size of each file; of addresses the name alone, which on the hub has a revision."""
    yield [stream.builder, stream.image_column, stream.label_column]
    if stream.layout is not None:
        yield [stream.layout.image, stream.layout.label, stream.layout.in_json, stream.layout.first_dot]
    if stream.captioned_by:
        yield ["captions", stream.captioned_by]
    yield [file for file in stream.files if "://" in file]
    yield from portable_files([file for file in stream.files if "://" not in file])


def token_facts(cache: TokenCache) -> Iterator[Any]:
    """The tokenizer, the augmentation, all labels, and the tokens of some images."""
    config = cache.config
    yield [config.tokenizer, [list(size) for size in config.scales], config.codebook_size]
    yield [config.views, config.enlarge, config.flip, config.seed]
    yield labels_hash(cache.rows.with_format("numpy")["label"][:]) if len(cache) else ""
    chosen = np.unique(np.linspace(0, max(0, len(cache) - 1), TOKEN_ROWS).astype(np.int64))
    tokens = np.asarray(cache.rows.with_format("numpy")[chosen]["tokens"]).astype("<u2")
    yield hashlib.sha256(tokens.tobytes()).hexdigest()


def caption_facts(source: ImageSource | TokenCache) -> Iterator[Any]:
    """All captions; nothing without, so that a set keeps its identity where captions are not asked for."""
    if source.captions is not None:
        yield ["captions", source.captions.fingerprint()]


def is_files(rows: Any) -> bool:
    """Whether the rows of a source are paths of image files."""
    return isinstance(rows, Sequence) and (not rows or isinstance(rows[0], Path))


def portable_files(files: Sequence[str | Path]) -> Iterator[tuple[str, int]]:
    """Name below the common folder and size of each file; links are followed."""
    paths = [os.path.abspath(file) for file in files]
    root = os.path.commonpath({os.path.dirname(path) for path in paths}) if paths else ""
    for path in paths:
        yield path[len(root) :].replace(os.sep, "/").lstrip("/"), size_of(path)


def size_of(path: str | Path) -> int:
    """Bytes of a file; -1 where it is missing or not accessible, which its reader will report."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def files_here(files: Sequence[str | Path]) -> Iterator[tuple[Any, ...]]:
    """Resolved folder, name, size, time and inode of each file; the inode identifies the target of a link."""
    folders: dict[str, str] = {}
    for file in files:
        folder, name = os.path.split(os.path.abspath(file))
        if folder not in folders:  # resolving a path is slow: one system call for each of its parts
            folders[folder] = os.path.realpath(folder)
        try:
            facts = os.stat(file)
        except OSError:
            yield folders[folder], name
        else:
            yield folders[folder], name, facts.st_size, facts.st_mtime_ns, facts.st_ino


def rows_here(source: ImageSource) -> Iterator[Any]:
    """A table's fingerprint by `datasets` (which depends on its file's time), its cache files, and files it names."""
    yield source.rows._fingerprint
    yield from files_here([file["filename"] for file in source.rows.cache_files])
    for column in image_columns(source):
        lengths, places = lengths_and_paths(column)
        if "archive" in column:
            yield from files_here(sorted(set(column["archive"].to_pylist())))
            yield column["offset"].to_pylist()
        elif None in lengths:
            yield from files_here(beside(source, places))


def labels_hash(labels: Sequence[int] | np.ndarray | None) -> str:
    """SHA-256 of class ids; empty without."""
    return "" if labels is None else hashlib.sha256(np.asarray(labels).astype("<i8").tobytes()).hexdigest()


def digest(*facts: Any) -> str:
    """SHA-256 over facts, each written as a line of JSON."""
    found = hashlib.sha256()
    for part in facts:
        for fact in part:
            found.update(json.dumps(fact).encode() + b"\n")
    return found.hexdigest()
