"""Columns of tables of images: which one holds the images and which the labels, and how an image's cell is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nextscale.data.decode import UnreadableImage
from nextscale.data.labels import NO_LABELS, WITHOUT

IMAGE_COLUMNS = ("image", "png", "jpg", "jpeg", "webp", "img")
LABEL_COLUMNS = ("label", "cls", "json")
"""Names that leave no doubt, in order; of `json`, the key `label` counts."""
LABEL_WORDS = ("label", "class", "cls", "categor", "target", "species", "breed")
OTHER_WORDS = frozenset(
    (
        "id", "idx", "index", "uid", "uuid", "key", "url", "path", "file", "filename", "name", "source", "license",
        "caption", "captions", "text", "txt", "prompt", "description", "title", "alt", "width", "height", "size",
        "md5", "sha1", "sha256", "hash", "phash", "split", "score", "date", "time", "author", "mask",
    )
)  # fmt: skip
"""Last words of names of columns that say something else of an image than its class."""


def choose_image_column(features: Mapping[str, Any], asked: str, where: str) -> str:
    """The column of images. Raises ValueError where it is in doubt, not there, or of a kind that cannot be read."""
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
            f"data {where}: column {column!r} holds {kind_of(features[column])}, expected files of images (PNG, JPEG "
            "and so on) or paths to them; `datasets` converts arrays: "
            f"rows.cast_column({column!r}, datasets.Image()).to_parquet(...)"
        )
    return column


def choose_label_column(features: Mapping[str, Any], asked: str, image: str, where: str) -> str:
    """The column of labels; empty for none. Raises ValueError where it is in doubt."""
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
    """Raises ValueError asking for a label column where there is something that may be one."""
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
    """Whether a column might hold the classes: by its name, or by its type unless its name says otherwise."""
    import datasets

    words = name.strip("_").lower().replace("-", "_").split("_")
    if isinstance(feature, datasets.ClassLabel) or any(word in name.lower() for word in LABEL_WORDS):
        return True
    kind = getattr(feature, "dtype", "")
    typed = isinstance(feature, datasets.Value) and (kind.startswith(("int", "uint")) or kind.endswith("string"))
    return (typed or kind == "bool") and not name.startswith("__") and words[-1] not in OTHER_WORDS


def holds_images(feature: Any) -> bool:
    import datasets

    if isinstance(feature, datasets.Value):
        return feature.dtype.endswith(("binary", "string"))
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and bool({"bytes", "path"} & set(feature)))


def kind_of(feature: Any) -> str:
    """What a column holds, for people."""
    kind = getattr(feature, "dtype", "") or type(feature).__name__
    return "lists" if kind.lower() in ("list", "largelist", "sequence") or "Array" in type(feature).__name__ else kind


def encoded(value: Any, name: str, folder: Path | None) -> tuple[bytes | Path, str]:
    """What a cell of the image column holds, to be decoded, and the best name for it.

    A path is looked for from `folder` on, that of the table. Raises UnreadableImage where there is nothing.
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
    """What a cell of the label column says; of a `json` column, its key `label`."""
    if column != "json":
        return value
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value.get("label") if isinstance(value, dict) else None
