"""Labels of images: what their values mean, and the classes that they make.

A label is the *name* of a class, whatever it looks like, unless the data declares class indices: a `ClassLabel` of
`datasets`, or the digits of a WebDataset's `.cls` files.
"""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

logger = logging.getLogger("nextscale.data")

NO_LABELS = "none"
"""`--label-column` of those who want no classes."""
WITHOUT = f"--label-column {NO_LABELS} takes the images without classes"
MOST_INDICES = 100_000
"""Digits of a `.cls` file beyond this are no class indices."""

Label = int | str


@dataclass(frozen=True)
class Classes:
    """Names of classes, and which label means which."""

    names: tuple[str, ...] = ()
    ids: Mapping[Label, int] | None = None
    "Id of each label; None where labels are class indices."

    def id(self, value: Any, *, row: int | str, column: str) -> int:
        """Class id of a value of the label column. Raises ValueError naming the row."""
        label = plain_label(value, row=row, column=column)
        if label is None:
            raise ValueError(f"{named(row)} has no label in {column}; {WITHOUT}")
        if self.ids is None:
            place = number_of(label)
        else:
            place = self.ids.get(label, self.ids.get(str(label)))
        if not isinstance(place, int) or not 0 <= place < len(self.names):
            expected = f"0 to {len(self.names) - 1}" if self.ids is None else "one of " + shown(self.names)
            raise ValueError(f"{named(row)} has label {label}, expected {expected} ({column}); {WITHOUT}")
        return place


def named(row: int | str) -> str:
    return f"row {row}" if isinstance(row, int) else row


def plain_label(value: Any, *, row: int | str, column: str) -> Label | None:
    """A value of a label column as a number or text; None where there is none. Raises ValueError for other kinds."""
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
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # as tables write whole numbers beside missing ones
    if isinstance(value, int | str):
        return value
    kind = "a list" if isinstance(value, list | tuple | np.ndarray) else str(value)[:40]
    raise ValueError(f"{named(row)} has {kind} for a label in {column}; expected one name or whole number; {WITHOUT}")


def number_of(label: Label) -> int | None:
    """A label of digits, with or without a sign, as a number; None for another."""
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
    """Class ids (N,) int64 of the values of a label column, and the classes: see `classes_of`.

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
    """Say in a line each what may surprise in the labels: numbers with gaps, and names that look alike."""
    labels = list(classes.ids or ())
    if not texts(labels) and labels != list(range(len(labels))):
        logger.warning(
            "data %s: the numbers in %s are not 0, 1, 2 and so on: the %d that occur become the classes (%s)",
            where, column, len(labels), shown(classes.names),
        )  # fmt: skip
    warn_of_look_alikes(classes.names, where)


def classes_of(
    values: Iterable[Any],
    *,
    column: str,
    declared: Sequence[str] = (),
    indices: bool = False,
    rows: Sequence[str] | None = None,
) -> Classes:
    """The classes that the values of a label column make.

    `declared` names make them class indices; `indices` says that digits are class indices. All else is named by what
    occurs, digits in the order of their value. Raises ValueError naming the first row without a label, with a
    negative number, or with a label of another kind.
    """
    if declared:
        return Classes(tuple(declared))
    found: dict[Label, int] = {}
    for number, value in enumerate(values):
        row = rows[number] if rows else number
        label = plain_label(value, row=row, column=column)
        if label is None:
            raise ValueError(f"{named(row)} has no label in {column}; {WITHOUT}")
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
    """Say in a line which class names differ only in case, blanks or the encoding of accents; they are kept apart."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    groups = [" and ".join(map(repr, group)) for group in alike.values() if len(group) > 1]
    if groups:
        logger.warning("data %s: classes that look alike are kept apart: %s", where, "; ".join(groups[:8]))


def shown(names: Sequence[str], most: int = 8) -> str:
    """The first names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
