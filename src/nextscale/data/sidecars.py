"""Captions beside the images of a folder: rows of `metadata.jsonl` and `metadata.csv`, and .txt files of the same stem.

The first is the convention of `datasets`' ImageFolder: a row names an image in `file_name`, from its own folder on.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nextscale.classes import few
from nextscale.data.captions import (
    CAPTION_COLUMNS,
    NO_CAPTIONS,
    Captions,
    captions_of_rows,
    lines_of,
    named_columns,
    named_places,
    require_texts,
    text_of,
    texts_in,
    the_only_place,
)
from nextscale.data.columns import require_column

logger = logging.getLogger("nextscale.data")

TXT, FILE_NAME = "txt", "file_name"
METADATA = ("metadata.jsonl", "metadata.csv")
ADVICE = f"; --caption-column {NO_CAPTIONS} takes no captions"


def may_hold_captions(name: str) -> bool:
    """Whether a file of this name is one that captions may be in."""
    return name.lower() in METADATA or name.lower().endswith(f".{TXT}")


def captions_beside(
    images: Sequence[Path], files: Iterable[Path], top: Path, asked: str
) -> tuple[Captions | None, set[Path]]:
    """Captions of the images of a folder, and those of the other `files` that they are in.

    `asked` names columns of metadata files, or `txt`. Without it, captions are taken where one convention alone
    applies: metadata with one column of captions, or a .txt file beside every image; doubt is logged. Raises ValueError
    for a column that is missing, and for a file that cannot be read.
    """
    if asked == NO_CAPTIONS:
        return None, set()
    files = list(files)
    stems = {file.with_suffix(""): file for file in files if file.name.lower() not in METADATA}
    beside = [stems.get(image.with_suffix("")) for image in images]
    metadata = Metadata()
    if asked != TXT:
        for file in files:
            if file.name.lower() in METADATA:
                metadata.read(file, top, needed=bool(asked))
    places = named_places(asked, metadata.columns) if asked else obvious_places(metadata, beside, top)
    if not places:
        return None, set()
    names = [place for place in places if place != TXT]
    for name in names:
        require_column(metadata.columns, name, f"--caption-column NAME of {' or '.join(METADATA)}, or {TXT}", str(top))
    texts = []
    for image, file in zip(images, beside, strict=True):
        cells = [cell for row in metadata.rows.pop(key_of(image, top), []) for cell in cells_of(row, names)]
        lines = lines_of(file.read_bytes(), f"data {top}: {file.relative_to(top)}") if file and TXT in places else []
        texts.append(texts_in([*cells, lines]))
    if names and metadata.rows:
        absent = "data %s: metadata names %d files that are no images here (%s)"
        logger.warning(absent, top, len(metadata.rows), few(list(metadata.rows), 8))
    origins = [f"{named_columns(names)} of {', '.join(metadata.names)}"] if names else []
    origin = " and ".join([*origins, *([f".{TXT} files"] if TXT in places else [])])
    used = {*(metadata.files if names else []), *(file for file in beside if file and TXT in places)}
    return captions_of_rows(texts, origin), used


def obvious_places(metadata: Metadata, beside: Sequence[Path | None], top: Path) -> tuple[str, ...]:
    """The only place of captions, if there is one; `beside` are the .txt files of the images."""
    found = [name for name in metadata.columns if name.lower() in CAPTION_COLUMNS]
    number = sum(file is not None for file in beside)
    if number == len(beside):
        found.append(TXT)
    elif number and not found:
        some = "data %s: %d of %d images have a .txt file beside them; --caption-column %s takes those as captions"
        logger.warning(some, top, number, len(beside), TXT)
    return the_only_place(found, str(top))


@dataclass
class Row:
    """A row of metadata: where it is, for messages, and its cells."""

    place: str
    cells: dict[str, Any]


@dataclass
class Metadata:
    """Rows of metadata files by the image that they name."""

    files: list[Path] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    "By `key_of`; several rows of one image are several captions."

    @property
    def names(self) -> list[str]:
        """Names of the files, without their folders."""
        return sorted({file.name for file in self.files})

    def read(self, file: Path, top: Path, *, needed: bool) -> None:
        """Add the rows of a file, which must have a column `file_name` if it is `needed`. Raises ValueError."""
        where = f"data {top}: {file.relative_to(top)}"
        text = text_of(file.read_bytes(), where)
        rows = list(json_rows(text, where) if file.suffix.lower() == ".jsonl" else csv_rows(text, where))
        columns = dict.fromkeys(name for row in rows for name in row.cells)
        if FILE_NAME not in columns:
            if needed:
                raise ValueError(f"{where} has no {FILE_NAME!r}; its columns are {', '.join(columns)}{ADVICE}")
            return
        self.files.append(file)
        self.columns |= {name: None for name in columns if name != FILE_NAME}
        for row in rows:
            name = row.cells.get(FILE_NAME)
            if not name or not isinstance(name, str):
                raise ValueError(f"{row.place} has no {FILE_NAME!r}{ADVICE}")
            self.rows.setdefault(key_of(file.parent / name, top), []).append(row)


def key_of(image: Path, top: Path) -> str:
    """The path of an image below `top`, with accents in one encoding: systems and programs differ in theirs."""
    path = posixpath.relpath(image.as_posix(), top.as_posix())
    return unicodedata.normalize("NFC", path)


def json_rows(text: str, where: str) -> Iterable[Row]:
    """The objects of a JSON Lines file. Raises ValueError naming the line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place} is not JSON ({error}){ADVICE}") from error
        if not isinstance(cells, dict):
            raise ValueError(f"{place} is no object with {FILE_NAME!r} and texts{ADVICE}")
        yield Row(place, cells)


def csv_rows(text: str, where: str) -> Iterable[Row]:
    """The rows of a CSV file with a header. Raises ValueError."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            place = f"{where}, line {reader.line_num}"
            if cells.pop(None, None):
                raise ValueError(f"{place} has more cells than the header; texts with commas need quotes{ADVICE}")
            yield Row(place, cells)
    except csv.Error as error:
        raise ValueError(f"{where} is not CSV behind line {reader.line_num} ({error}){ADVICE}") from error


def cells_of(row: Row, names: Iterable[str]) -> list[Any]:
    """The cells of some columns. Raises ValueError where one holds neither text nor texts."""
    return [require_texts(row.cells.get(name), f"{row.place}: {name!r}") for name in names]
