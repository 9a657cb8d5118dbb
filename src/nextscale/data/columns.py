"""Columns of tables: which one holds the images and which the labels, what their cells hold, and classes of labels.

A label is the *name* of a class, even where it is a number, unless the data declares class indices: by a `ClassLabel`
of `datasets`, or by the digits of a WebDataset's `.cls` files.
"""

from __future__ import annotations

import json
import logging
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextscale.classes import few
from nextscale.data.decode import UnreadableImage

logger = logging.getLogger("nextscale.data")

NO_LABELS = "none"
"""`--label-column` for images without classes."""
WITHOUT = f"--label-column {NO_LABELS} takes the images without classes"
IMAGE_COLUMNS = ("image", "png", "jpg", "jpeg", "webp", "img")
LABEL_COLUMNS = ("label", "cls", "json")
"""Names of columns that are taken without asking, in this order; of `json`, the key `label` is taken."""
LABEL_WORDS = ("label", "class", "cls", "categor", "target", "species", "breed")
OTHER_WORDS = re.compile(
    "id|idx|index|uid|uuid|key|url|path|file|filename|name|source|license|captions?|text|txt|prompt|description|title|"
    "alt|width|height|size|md5|sha1|sha256|p?hash|split|score|date|time|author|mask"
)
"""Last words of column names that describe an image otherwise than by its class."""
MOST_INDICES = 100_000
"""Digits of a `.cls` file from this number on are no class indices but names."""

Label = int | str


def choose_columns(features: Mapping[str, Any], image: str, label: str, where: str) -> tuple[str, str]:
    """The columns of images and of labels (empty for none). `image` and `label` name them where they are not empty.

    Raises ValueError where one is in doubt or missing, or where the images cannot be read.
    """
    image = _image_column(features, image, where)
    return image, _label_column(features, label, image, where)


def _image_column(features: Mapping[str, Any], asked: str, where: str) -> str:
    import datasets

    if asked:
        column = require_column(features, asked, "--image-column NAME", where)
    else:
        folded = {name.lower(): name for name in reversed(list(features))}
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        column = next((folded[name] for name in IMAGE_COLUMNS if name in folded), images[0] if len(images) == 1 else "")
        if not column:
            raise ValueError(
                f"data {where}: has no column 'image'; its columns are {', '.join(features)}; "
                "say which holds the images with --image-column NAME"
            )
    if not holds_images(features[column]):
        raise ValueError(
            f"data {where}: column {column!r} holds {content_type(features[column])}, expected files of images "
            "(PNG, JPEG and so on) or paths to them; `datasets` converts arrays: "
            f"rows.cast_column({column!r}, datasets.Image()).to_parquet(...)"
        )
    return column


def _label_column(features: Mapping[str, Any], asked: str, image: str, where: str) -> str:
    if asked == NO_LABELS:
        return ""
    if asked:
        return require_column(features, asked, f"--label-column NAME, or {NO_LABELS}", where)
    known = next((name for name in LABEL_COLUMNS if name in features), "")
    if known:
        return known
    doubtful = [name for name, feature in features.items() if name != image and may_be_label(name, feature)]
    require_no_doubt(doubtful, "column", where)
    return ""


def require_no_doubt(doubtful: Iterable[str], kind: str, where: str) -> None:
    """Raises ValueError, which asks for a label column, where `doubtful` names what may be one."""
    if names := list(doubtful):
        raise ValueError(
            f"data {where}: has no {kind} 'label'; if the classes are in {' or '.join(names)}, say so with "
            f"--label-column {names[0]}; {WITHOUT}"
        )


def require_column(features: Mapping[str, Any], asked: str, flag: str, where: str) -> str:
    if asked not in features:
        raise ValueError(f"data {where}: has no column {asked!r}; its columns are {', '.join(features)} ({flag})")
    return asked


def may_be_label(name: str, feature: Any) -> bool:
    """Whether a column might hold classes: its name says so, or its type does and its name says nothing else."""
    import datasets

    words = name.strip("_").lower().replace("-", "_").split("_")
    if isinstance(feature, datasets.ClassLabel) or any(word in name.lower() for word in LABEL_WORDS):
        return True
    dtype = getattr(feature, "dtype", "")
    typed = isinstance(feature, datasets.Value) and (dtype.startswith(("int", "uint")) or dtype.endswith("string"))
    return (typed or dtype == "bool") and not name.startswith("__") and not OTHER_WORDS.fullmatch(words[-1])


def holds_images(feature: Any) -> bool:
    import datasets

    if isinstance(feature, datasets.Value):
        return feature.dtype.endswith(("binary", "string"))
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and bool({"bytes", "path"} & set(feature)))


def content_type(feature: Any) -> str:
    """What a column holds, for messages."""
    name = getattr(feature, "dtype", "") or type(feature).__name__
    return "lists" if name.lower() in ("list", "largelist", "sequence") or "Array" in type(feature).__name__ else name


def encoded(value: Any, name: str, folder: Path | None) -> tuple[bytes | Path, str]:
    """The encoded image or its path in a cell of the image column, and the best name for it.

    Paths start at `folder`, the table's. Raises UnreadableImage where the cell is empty or the file is missing.
    """
    if isinstance(value, str):
        value = {"path": value}
    if isinstance(value, dict):
        path, data = value.get("path"), value.get("bytes")
        name = path or name
        if data is None and value.get("archive"):
            with Path(value["archive"]).open("rb") as file:
                file.seek(value["offset"])
                data = file.read(value["size"])
        if data is None and path:
            place = Path(path) if folder is None else folder / path
            if not place.is_file():
                raise UnreadableImage(f"{place}: there is no such file")
            return place, str(place)
        value = data
    if not value:
        raise UnreadableImage(f"{name}: holds no image data")
    return value, name


def undecoded(rows: Any, column: str) -> Any:
    """Rows whose images stay encoded."""
    import datasets

    if isinstance(rows.features[column], datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    return rows


def declared_names(feature: Any) -> tuple[str, ...]:
    """Names that a feature declares for class indices."""
    return tuple(getattr(feature, "names", None) or ())


def label_in(value: Any, column: str) -> Any:
    """The label in a cell of the label column; in a `json` column, that of the key `label`."""
    if column != "json":
        return value
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value.get("label") if isinstance(value, dict) else None


@dataclass(frozen=True)
class Classes:
    """Names of classes, and the class id of each label."""

    names: tuple[str, ...] = ()
    ids: Mapping[Label, int] | None = None
    "Id of each label; None where labels are class indices."

    def id(self, value: Any, *, row: int | str, column: str) -> int:
        """Class id of a value of the label column. Raises ValueError naming the row."""
        label = plain_label(value, row=row, column=column)
        if self.ids is None:
            place = number_of(label)
        else:
            place = self.ids.get(label, self.ids.get(str(label)))
        if not isinstance(place, int) or not 0 <= place < len(self.names):
            expected = f"0 to {len(self.names) - 1}" if self.ids is None else "one of " + few(self.names, 8)
            raise ValueError(f"{named(row)} has label {label}, expected {expected} ({column}); {WITHOUT}")
        return place


def named(row: int | str) -> str:
    return f"row {row}" if isinstance(row, int) else row


def plain_label(value: Any, *, row: int | str, column: str) -> Label:
    """A cell of a label column as a number or text. Raises ValueError where it is missing or of another type."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    ):
        raise ValueError(f"{named(row)} has no label in {column}; {WITHOUT}")
    if isinstance(value, float) and value.is_integer():
        return int(value)  # tables with missing values hold whole numbers as floats
    if isinstance(value, int | str):
        return value
    kind = "a list" if isinstance(value, list | tuple | np.ndarray) else str(value)[:40]
    raise ValueError(f"{named(row)} has {kind} for a label in {column}; expected one name or whole number; {WITHOUT}")


def number_of(label: Label) -> int | None:
    """The number that a label is or spells, with or without a sign; None for other text."""
    if isinstance(label, int):
        return label
    text = label.strip()
    return int(text) if len(text) < 19 and text.isascii() and text.removeprefix("-").isdecimal() else None


def read_labels(
    values: Sequence[Any],
    *,
    where: str,
    column: str,
    declared: Sequence[str] = (),
    indices: bool = False,
    rows: Sequence[str] | None = None,
) -> tuple[np.ndarray, Classes]:
    """Class ids (N,) int64 of the cells of a label column, and the classes (see `classes_of`).

    `rows` are names of the rows for messages. Raises ValueError naming data, row and column.
    """
    try:
        classes = classes_of(values, column=column, declared=declared, indices=indices, rows=rows)
        ids = [classes.id(value, row=rows[i] if rows else i, column=column) for i, value in enumerate(values)]
    except ValueError as error:
        raise ValueError(f"data {where}: {error}") from error
    warn_of_oddities(classes, where, column)
    return np.asarray(ids, dtype=np.int64), classes


def warn_of_oddities(classes: Classes, where: str, column: str) -> None:
    """Log what may surprise in the labels, one line each: numbers with gaps, and names that look alike."""
    labels = list(classes.ids or ())
    if not texts(labels) and labels != list(range(len(labels))):
        gaps = "data %s: the numbers in %s are not 0, 1, 2 and so on: the %d that occur become the classes (%s)"
        logger.warning(gaps, where, column, len(labels), few(classes.names, 8))
    warn_of_look_alikes(classes.names, where)


def classes_of(
    values: Iterable[Any],
    *,
    column: str,
    declared: Sequence[str] = (),
    indices: bool = False,
    rows: Sequence[str] | None = None,
) -> Classes:
    """The classes of a label column.

    With `declared` names, labels are indices of these; with `indices`, digits are class indices. Otherwise each label
    that occurs names a class, and digits are sorted by value. Raises ValueError naming the first row without a label,
    with a negative number, or with a label of another type.
    """
    if declared:
        return Classes(tuple(declared))
    found: dict[Label, int] = {}
    for number, value in enumerate(values):
        row = rows[number] if rows else number
        label = plain_label(value, row=row, column=column)
        if label not in found and (indices or isinstance(label, int)) and (number_of(label) or 0) < 0:
            raise ValueError(f"{named(row)} has label {label}, expected numbers from 0 ({column}); {WITHOUT}")
        found.setdefault(label, number)
    numbers = [number for label in found if (number := number_of(label)) is not None]
    whole = len(numbers) == len(found)
    if whole and indices and max(numbers) < MOST_INDICES:
        return Classes(tuple(map(str, range(max(numbers) + 1))))
    labels = list(dict.fromkeys(map(str, found))) if texts(found) else list(found)
    ordered = sorted(labels, key=(lambda label: (number_of(label), str(label))) if whole else str)
    return Classes(tuple(map(str, ordered)), {label: place for place, label in enumerate(ordered)})


def texts(labels: Iterable[Label]) -> bool:
    """Whether any label is text."""
    return any(isinstance(label, str) for label in labels)


def warn_of_look_alikes(names: Sequence[str], where: str) -> None:
    """Log which class names differ only in case, blanks or the encoding of accents; they stay separate classes."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    groups = [" and ".join(map(repr, group)) for group in alike.values() if len(group) > 1]
    if groups:
        logger.warning("data %s: classes that look alike are kept apart: %s", where, "; ".join(groups[:8]))
