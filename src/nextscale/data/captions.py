"""Captions: texts that say what an image shows. An image has none, one or several, of which each epoch draws one."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from nextscale.data.columns import content_type, require_column

logger = logging.getLogger("nextscale.data")

CAPTIONS = "captions"
"""Column of captions in token caches, and in rows of archives."""
NO_CAPTIONS = "none"
"""`--caption-column` for images without captions."""
CHUNK = 65_536
"""Images whose captions are one array."""
CAPTION_COLUMNS = ("caption", "captions", "text", "txt", "prompt")
"""Names of columns that are taken without asking where a table has one of them."""
LISTS = ("List", "LargeList", "Sequence")
"""Features of `datasets` that are lists."""
BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
NAME = "{name}"
"""What a template writes the class name at."""


@dataclass(frozen=True)
class Captions:
    """The captions of the images of a set, by index."""

    texts: Any
    "A `pyarrow.ChunkedArray` of lists of strings, one list for each image; memory-mapped where it is so on disk."
    origin: str = ""
    "Where they come from, for messages."

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, ...]:
        """Captions of an image, in order; empty where it has none."""
        return tuple(self.texts[int(index)].as_py() or ())

    def part(self, indices: np.ndarray) -> Captions:
        """The captions of some images."""
        return replace(self, texts=self.texts.take(np.asarray(indices)))

    def missing(self) -> list[int]:
        """Indices of the images without a caption."""
        import pyarrow.compute

        lengths = pyarrow.compute.call_function("list_value_length", [self.texts]).fill_null(0)
        return np.flatnonzero(lengths.to_numpy() == 0).tolist()

    def fingerprint(self) -> str:
        """SHA-256 over all captions, in order."""
        found = hashlib.sha256()
        for chunk in self.texts.chunks:
            for own in chunk.to_pylist():
                found.update(json.dumps(own or []).encode() + b"\n")
        return found.hexdigest()


def plain_text(text: str) -> str:
    """A text on one line: blanks and control characters, NUL among them, become single blanks, none at its ends."""
    return BLANKS.sub(" ", text).strip().encode("utf-8", errors="replace").decode()  # halves of signs have no code


def caption_columns(features: Mapping[str, Any], asked: str, where: str, taken: Sequence[str]) -> tuple[str, ...]:
    """Columns of a table that hold captions; empty for none. `asked` names them, with commas between them.

    Without it, the one column that is called a caption and not `taken`; where there are several, that is logged and
    none is. Raises ValueError for a column that is missing or holds something else.
    """
    if asked == NO_CAPTIONS:
        return ()
    if asked:
        names = named_places(asked, features)
        for name in names:
            require_column(features, name, f"--caption-column NAME, or {NO_CAPTIONS}", where)
            if not holds_texts(features[name]):
                raise ValueError(
                    f"data {where}: column {name!r} holds {content_type(features[name])}, expected text or lists of it"
                )
        return names
    found = [name for name in features if name.lower() in CAPTION_COLUMNS and name not in taken]
    return the_only_place([name for name in found if holds_texts(features[name])], where)


def named_places(asked: str, known: Iterable[str]) -> tuple[str, ...]:
    """The names in `--caption-column`, which has commas between them."""
    return (asked,) if asked in known else tuple(dict.fromkeys(name.strip() for name in asked.split(",")))


def the_only_place(found: Sequence[str], where: str) -> tuple[str, ...]:
    """A place of captions that needs no asking; of several none, which is logged."""
    if len(found) > 1:
        advice = "data %s: captions may be in %s; none are taken: say which with --caption-column %s"
        logger.warning(advice, where, " or ".join(found), found[0])
        return ()
    return tuple(found)


def holds_texts(feature: Any) -> bool:
    """Whether a column holds strings or lists of strings."""
    import datasets

    if isinstance(feature, list):
        feature = feature[0]
    elif type(feature).__name__ in LISTS:
        feature = feature.feature
    return isinstance(feature, datasets.Value) and feature.dtype.endswith("string")


def texts_in(cells: Iterable[Any]) -> tuple[str, ...]:
    """The captions in cells, each a text, a list of texts or empty: on one line each, without repetitions."""
    lists = ([cell] if isinstance(cell, str) else [] if cell is None else cell for cell in cells)
    texts = (plain_text(text) for own in lists for text in own if text is not None)
    return tuple(text for text in dict.fromkeys(texts) if text)


def lines_of(data: bytes, name: str) -> list[str]:
    """The lines of a text file, each of which is a caption. Raises ValueError where it is not UTF-8."""
    return text_of(data, name).splitlines()


def text_of(data: bytes, name: str) -> str:
    """The text in a file. Raises ValueError where it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8 ({error.reason} at byte {error.start})") from error


def require_texts(value: Any, name: str) -> Any:
    """A text, a list of texts, or None. Raises ValueError for something else."""
    if value is None or isinstance(value, str) or (isinstance(value, list) and all(map(is_text, value))):
        return value
    raise ValueError(f"{name} is {json.dumps(value)[:40]}, expected text or a list of texts")


def is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def captions_of_table(rows: Any, columns: Sequence[str]) -> Captions:
    """Captions in columns of a `datasets.Dataset`; no other column is read."""
    parts = rows.select_columns(list(columns)).with_format("arrow").iter(batch_size=CHUNK)
    cells = (row for part in parts for row in zip(*(part.column(name).to_pylist() for name in columns), strict=True))
    return captions_of_rows(map(texts_in, cells), named_columns(columns))


def named_columns(columns: Sequence[str]) -> str:
    """Columns of captions, for messages."""
    return f"column{'s' * (len(columns) > 1)} {', '.join(map(repr, columns))}"


def captions_of_rows(rows: Iterable[Sequence[str]], origin: str) -> Captions:
    """Captions from those of each image, in order."""
    import pyarrow as arrow

    kind = arrow.list_(arrow.string())
    rows, chunks = iter(rows), []
    while some := list(islice(rows, CHUNK)):
        chunks.append(arrow.array(some, kind))
    return Captions(arrow.chunked_array(chunks, kind), origin)


def captions_of_classes(names: Sequence[str], labels: Any, template: str, where: str) -> Captions:
    """One caption for each image, made of its class; `labels` are class ids (N,). Raises ValueError without classes."""
    import pyarrow as arrow

    require_class_names(names, where)
    labels = np.asarray(labels, dtype=np.int64)
    texts = arrow.array([[captioned(name, template)] for name in names])
    return Captions(arrow.chunked_array([texts.take(arrow.array(labels, mask=labels < 0))]), named_template(template))


def captioned(name: str, template: str) -> str:
    """The caption of a class: the template with its name, whose underscores become blanks."""
    return plain_text(template.replace(NAME, name.replace("_", " ")))


def named_template(template: str) -> str:
    """Captions by a template, for messages."""
    return f"class names by the template {template!r}"


def require_class_names(names: Sequence[str], where: str) -> None:
    """Raises ValueError without classes."""
    if not names:
        raise ValueError(f"data {where}: has no classes whose names could be captions; leave out --caption-template")


def instead_of_template(column: str, template: str) -> str:
    """The column of captions, which a template of class names replaces. Raises ValueError where both are given."""
    if not template:
        return column
    require_template(template)
    if column not in ("", NO_CAPTIONS):
        raise ValueError(f"captions are asked for in {column} and by a template; leave out one of them")
    return NO_CAPTIONS


def require_template(template: str) -> None:
    """Raises ValueError where a template has no place for the class name."""
    if NAME not in template:
        raise ValueError(f"caption template {template!r} has no {NAME}; write it as in 'a {NAME}'")


def drawn_captions(captions: Sequence[Sequence[str]], chances: Iterable[float]) -> list[str]:
    """One of the captions of each image, (B,); empty for an image without. `chances` (B,) in [0, 1) decide."""
    return [own[int(chance * len(own))] if own else "" for own, chance in zip(captions, chances, strict=True)]
