"""Open any `--data` specification as a map-style set of images with class labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nextscale.data.decode import UnreadableImage, decode_rgb

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
IMAGE_COLUMNS = ("image", "png", "jpg", "jpeg", "webp", "img")
LABEL_COLUMNS = ("label", "cls", "json")
EXPECTED = "expected an image folder (one subfolder per class), parquet files, WebDataset .tar files or a hub id"


@dataclass(frozen=True)
class ImageSource:
    """Images and labels by index; rows stay on disk (memory-mapped) until read."""

    rows: Any  # a datasets.Dataset, or paths
    labels: Sequence[int] | np.ndarray | None
    class_names: tuple[str, ...]
    image_column: str = "image"
    "Column of `rows` with encoded images; unused for plain paths."

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """File name of an image, or its row number."""
        row = self.rows[index]
        if isinstance(row, Path):
            return str(row)
        value = row[self.image_column]
        return (value.get("path") if isinstance(value, dict) else None) or f"row {index}"

    def label(self, index: int) -> int | None:
        """Class id of an image; None without classes."""
        return None if self.labels is None else int(self.labels[index])

    def read(self, index: int) -> tuple[Image.Image, int | None]:
        """RGB image and class id. Raises UnreadableImage naming the file."""
        row = self.rows[index]
        if isinstance(row, Path):
            return decode_rgb(row, name=str(row)), self.label(index)
        value = row[self.image_column]
        data = value.get("bytes") if isinstance(value, dict) else value
        name = (value.get("path") if isinstance(value, dict) else None) or f"row {index}"
        if data is None and isinstance(value, dict) and value.get("path"):
            data = Path(value["path"])
        if not data:
            raise UnreadableImage(f"{name}: holds no image data")
        return decode_rgb(data, name=name), self.label(index)


def open_source(spec: str | Path, *, split: str = "train") -> ImageSource:
    """Open an image folder, parquet file or folder, WebDataset or hub id (`owner/name`).

    Raises ValueError in one line that says what was found and what was expected.
    """
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".parquet" and path.is_file():
        return _open_datasets("parquet", [path])
    if path.suffix == ".tar" and path.is_file():
        return _open_datasets("webdataset", [path])
    if path.exists():
        raise ValueError(f"data {spec}: not a data set; {EXPECTED}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(spec)):
        return _open_hub(str(spec), split)
    raise ValueError(f"data {spec}: there is no such file or folder; {EXPECTED}")


def _open_folder(folder: Path) -> ImageSource:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ValueError(f"data {folder}: cannot be read ({error.strerror})") from error
    if not entries:
        raise ValueError(f"data {folder}: the folder is empty; {EXPECTED}")
    for suffix, builder in ((".parquet", "parquet"), (".tar", "webdataset")):
        files = [entry for entry in entries if entry.suffix == suffix and entry.is_file()]
        if files:
            return _open_datasets(builder, files)
    flat = [entry for entry in entries if _is_image(entry)]
    folders = {entry.name: images_below(entry) for entry in entries if entry.is_dir()}
    classes = {name: files for name, files in folders.items() if files}
    if flat and classes:
        raise ValueError(
            f"data {folder}: holds images both beside and inside subfolders; move all into subfolders (classes) "
            "or all into the folder itself (unconditional)"
        )
    if flat:
        return ImageSource(flat, None, ())
    if not classes:
        hint = ", ".join(entry.name for entry in entries if entry.is_dir() and any(entry.glob("*.parquet")))
        raise ValueError(
            f"data {folder}: holds no images" + (f"; did you mean its subfolder {hint}?" if hint else f"; {EXPECTED}")
        )
    paths = [file for files in classes.values() for file in files]
    labels = [index for index, files in enumerate(classes.values()) for _ in files]
    return ImageSource(paths, labels, tuple(classes))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def images_below(folder: Path) -> list[Path]:
    """All image files at any depth, sorted."""
    return sorted(path for path in folder.rglob("*") if _is_image(path))


def _open_datasets(builder: str, files: list[Path]) -> ImageSource:
    """Parquet or WebDataset files through `datasets`, memory-mapped from its cache."""
    where = str(files[0] if len(files) == 1 else files[0].parent)
    rows = load_rows(where, builder, data_files=[str(file) for file in files], split="train")
    return _from_rows(rows, where)


def _open_hub(name: str, split: str) -> ImageSource:
    return _from_rows(load_rows(name, name, split=split), name)


def load_rows(where: str, *arguments: Any, **options: Any) -> Any:
    """`datasets.load_dataset`, whose many errors become a ValueError in one line."""
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(*arguments, **options)
    except Exception as error:  # pyarrow, fsspec, httpx and datasets raise their own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        cause = str(error.__cause__).splitlines()[0] if error.__cause__ and str(error.__cause__) else ""
        raise ValueError(f"data {where}: cannot be loaded ({cause or reason}); {EXPECTED}") from error


def _from_rows(rows: Any, where: str) -> ImageSource:
    import datasets

    columns = rows.column_names
    image = next((name for name in IMAGE_COLUMNS if name in columns), None)
    if image is None:
        raise ValueError(f"data {where}: has no column 'image'; its columns are {', '.join(columns)}")
    if len(rows) == 0:
        raise ValueError(f"data {where}: holds no images")
    if isinstance(rows.features[image], datasets.Image):
        rows = rows.cast_column(image, datasets.Image(decode=False))
    labels, names = _labels(rows, next((name for name in LABEL_COLUMNS if name in columns), None), where)
    return ImageSource(rows.select_columns([image]), labels, names, image)


def _labels(rows: Any, column: str | None, where: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Class ids and names of a label column: ClassLabel, integers, strings or json with a `label`."""
    import datasets

    if column is None:
        return None, ()
    values: list[Any] = list(rows.with_format(None)[column])
    feature = rows.features[column]
    if column == "json":
        values = [value.get("label") if isinstance(value, dict) else None for value in values]
    if any(value is None for value in values):
        raise ValueError(f"data {where}: {sum(value is None for value in values)} rows have no label in {column!r}")
    if all(isinstance(value, str) and value.strip().lstrip("-").isdigit() for value in values):
        values = [int(value) for value in values]  # WebDataset's .cls files are text
    if isinstance(feature, datasets.ClassLabel) and feature.names:
        names = tuple(feature.names)
    elif all(isinstance(value, str) for value in values):
        names = tuple(sorted(set(values)))
        ids = {name: index for index, name in enumerate(names)}
        values = [ids[value] for value in values]
    else:
        names = tuple(str(index) for index in range(int(max(values)) + 1))
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() >= len(names):
        raise ValueError(f"data {where}: labels must be class names or integers from 0, found {values[0]!r}")
    return array.astype(np.int64), names
