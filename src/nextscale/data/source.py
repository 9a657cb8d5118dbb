"""Open anything that `--data` may name as images with class labels, by index."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from nextscale.classes import few
from nextscale.data.archives import CLS, FOLDER, folder_labels, indexed, layout_of
from nextscale.data.captions import (
    NO_CAPTIONS,
    Captions,
    caption_columns,
    captions_of_classes,
    captions_of_rows,
    captions_of_table,
    instead_of_template,
)
from nextscale.data.columns import (
    NO_LABELS,
    choose_columns,
    declared_names,
    encoded,
    label_in,
    read_labels,
    undecoded,
    warn_of_look_alikes,
)
from nextscale.data.decode import read_image
from nextscale.data.folders import (
    OTHER,
    TABLES,
    PassedOver,
    class_of,
    is_image_name,
    require_classes,
    require_no_splits,
    table_files,
    unwanted,
    walk_images,
)
from nextscale.data.sidecars import captions_beside, may_hold_captions
from nextscale.errors import one_line

logger = logging.getLogger("nextscale.data")

EXPECTED = "expected an image folder (one subfolder per class), parquet files, WebDataset .tar files or a hub id"


@dataclass(frozen=True)
class ImageSource:
    """Images and labels by index. Images stay on disk (memory-mapped, or in their archive) until they are read."""

    rows: Any
    "A `datasets.Dataset`, or a list of paths."
    labels: Sequence[int] | np.ndarray | None
    "The class of each image; None without classes."
    class_names: tuple[str, ...]
    "Names of the classes, by label."
    image_column: str = "image"
    "Column of a dataset with encoded images or their paths."
    folder: Path | None = None
    "Folder that paths in the image column start at."
    labelled_by: str = ""
    "Where the labels are, for messages."
    captions: Captions | None = None
    "None where no image has a caption, or they were not asked for."

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

    @property
    def captioned_by(self) -> str:
        """Where captions come from, for messages; empty without."""
        return "" if self.captions is None else self.captions.origin

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Captions of an image; empty for none."""
        return () if self.captions is None else self.captions[index]

    def read(self, index: int) -> tuple[Image.Image, int | None]:
        """RGB image and class id. Raises UnreadableImage naming the file."""
        row = self.rows[index]
        if isinstance(row, Path):
            return read_image(row, name=str(row)), self.label(index)
        data, name = encoded(row[self.image_column], f"row {index}", self.folder)
        return read_image(data, name=name), self.label(index)


class Described(Protocol):
    """An ImageSource, an ImageStream or a TokenCache."""

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def captioned_by(self) -> str: ...
    @property
    def labelled_by(self) -> str: ...


def describe(source: Described) -> str:
    """One line about a data set: the number of images and classes, where labels and captions are, the first names."""
    count = f"{len(source)} images" if isinstance(source, Sized) else "a stream of images"
    captions = f"; captions from {source.captioned_by}" if source.captioned_by else ""
    if not source.class_names:
        return f"{count} without classes{captions}"
    number, by = len(source.class_names), f" by {source.labelled_by}" if source.labelled_by else ""
    return f"{count} in {number} class{'es' * (number > 1)}{by}: {few(source.class_names, 8)}{captions}"


def open_source(
    spec: str | Path,
    *,
    split: str = "train",
    label_column: str = "",
    image_column: str = "",
    caption_column: str = NO_CAPTIONS,
    caption_template: str = "",
) -> ImageSource:
    """Open an image folder, parquet file or folder, WebDataset or hub id (`owner/name`).

    `label_column` and `image_column` name columns where these are in doubt; the label column `none` leaves labels out.
    `caption_column` names those of captions; empty takes captions where they are beyond doubt. With `caption_template`,
    captions are class names instead. What is passed over is logged, and how many images have no caption. Raises
    ValueError in one line that says what was found and what was expected.
    """
    path, passed = Path(spec), PassedOver()
    where = str(spec)
    caption_column = instead_of_template(caption_column, caption_template)
    try:
        tables = table_files(path, split, passed)
        if tables is None and path.is_dir():
            source = _open_folder(path, passed, label_column, image_column, caption_column)
        elif tables is None:
            source = _open_hub(where, split, label_column, image_column, caption_column)
        elif tables[0] == "webdataset":
            source = _open_archives(tables[1], where, passed, label_column, image_column, caption_column)
        else:
            rows = load_rows(where, "parquet", data_files=[glob.escape(str(file)) for file in tables[1]], split="train")
            source = _from_rows(rows, where, label_column, image_column, caption_column, tables[1][0].parent)
    except OSError as error:
        raise ValueError(f"data {spec}: cannot be read ({error.strerror or error})") from error
    passed.log(spec)
    if caption_template:
        labels = np.full(len(source), -1) if source.labels is None else source.labels
        captions = captions_of_classes(source.class_names, labels, caption_template, where)
        source = replace(source, captions=captions)
    return without_empty(source, where, asked=bool(caption_column))


def without_empty(source: ImageSource, where: str, *, asked: bool) -> ImageSource:
    """The source, without captions where none of its images has one; logs how many have none, and some names.

    Raises ValueError where captions were `asked` for and there are none.
    """
    captions = source.captions
    missing = captions.missing() if captions is not None else []
    if captions is None or not missing:
        return source
    if len(missing) == len(source):
        text = f"data {where}: no image has a caption in {captions.origin}"
        if asked:
            raise ValueError(text)
        logger.warning(text)
        return replace(source, captions=None)
    names = few([source.name(index) for index in missing[:9]], 8)
    logger.warning("data %s: %d of %d images have no caption (%s)", where, len(missing), len(source), names)
    return source


def _open_folder(
    folder: Path, passed: PassedOver, label_column: str, image_column: str, caption_column: str
) -> ImageSource:
    if label_column not in ("", NO_LABELS, FOLDER) or image_column:
        logger.warning("data %s: a folder of images has no columns; its subfolders are the classes", folder)
    entries = sorted(folder.iterdir())
    if not entries:
        raise ValueError(f"data {folder}: the folder is empty; {EXPECTED}")
    wanted = is_image_name if caption_column == NO_CAPTIONS else is_image_or_about_one
    found = list(walk_images(folder, passed, folder, wanted=wanted))
    paths = [path for path in found if is_image_name(path.name)]
    others = [path for path in found if not is_image_name(path.name)]
    captions, used = captions_beside(paths, others, folder, caption_column) if paths else (None, set())
    for path in others:
        if path not in used:
            passed.add(OTHER, path.relative_to(folder))
    if not paths:
        tables = [entry.name for entry in entries if entry.is_dir() and any(map(is_table, entry.iterdir()))]
        advice = f"did you mean its subfolder {', '.join(tables)}?" if tables else EXPECTED
        others = f" (passed over {passed})" if passed.kinds else ""
        raise ValueError(f"data {folder}: holds no images{others}; {advice}")
    owners = [class_of(file, folder) for file in paths]
    require_no_splits(owners, folder)
    if label_column == NO_LABELS:
        return ImageSource(paths, None, (), captions=captions)
    require_classes(owners, folder)
    names = tuple(dict.fromkeys(owners))
    for entry in entries:
        if entry.is_dir() and not unwanted(entry.name) and entry.name not in names:
            passed.add("folders without images", entry.name)
    if names == ("",):
        return ImageSource(paths, None, (), captions=captions)
    warn_of_look_alikes(names, str(folder))
    places = {name: place for place, name in enumerate(names)}
    return ImageSource(paths, [places[owner] for owner in owners], names, labelled_by="subfolder", captions=captions)


def is_image_or_about_one(name: str) -> bool:
    return is_image_name(name) or may_hold_captions(name)


def is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES and path.is_file()


def _open_archives(
    files: list[Path], where: str, passed: PassedOver, label_column: str, image_column: str, caption_column: str
) -> ImageSource:
    columns = {"image_column": image_column, "label_column": label_column, "caption_column": caption_column}
    layout = layout_of(str(files[0]), PassedOver(), where=where, **columns)
    rows, labels, texts, names = indexed(files, layout, passed)
    captions = captions_of_rows(texts, layout.captioned_by) if layout.captions else None
    if not names:
        raise ValueError(f"data {where}: holds no images")
    if layout.label == FOLDER:
        labels = folder_labels(names, [value["archive"] for value in rows["image"]], layout, where)
    if labels is None or not layout.label:
        return ImageSource(rows, None, (), captions=captions)
    ids, classes = read_labels(labels, where=where, column=layout.column, indices=layout.label == CLS, rows=names)
    return ImageSource(rows, ids, classes.names, labelled_by=layout.column, captions=captions)


def _open_hub(where: str, split: str, label_column: str, image_column: str, caption_column: str) -> ImageSource:
    if Path(where).exists():
        raise ValueError(f"data {where}: not a data set; {EXPECTED}")
    if not is_hub_id(where):
        raise ValueError(f"data {where}: there is no such file or folder; {EXPECTED}")
    return _from_rows(load_rows(where, where, split=split), where, label_column, image_column, caption_column)


def is_hub_id(spec: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", spec) is not None


def load_rows(where: str, *arguments: Any, **options: Any) -> Any:
    """`datasets.load_dataset`. Raises ValueError in one line for whatever that raises."""
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(*arguments, **options)
    except Exception as error:  # pyarrow, fsspec, httpx and datasets raise their own kinds
        cause = error.__cause__ if error.__cause__ and str(error.__cause__) else error
        raise ValueError(f"data {where}: cannot be loaded ({one_line(cause)}); {EXPECTED}") from error


def _from_rows(
    rows: Any, where: str, label_column: str, image_column: str, caption_column: str, folder: Path | None = None
) -> ImageSource:
    image, label = choose_columns(rows.features, image_column, label_column, where)
    if len(rows) == 0:
        raise ValueError(f"data {where}: holds no images")
    images = undecoded(rows.select_columns([image]), image)
    texts = caption_columns(rows.features, caption_column, where, taken=(image, label))
    captions = captions_of_table(rows, texts) if texts else None
    if not label:
        return ImageSource(images, None, (), image, folder, captions=captions)
    column, declared = f"column {label!r}", declared_names(rows.features[label])
    values = [label_in(value, label) for value in rows.with_format(None)[label]]
    ids, classes = read_labels(values, where=where, column=column, declared=declared, indices=label == CLS)
    return ImageSource(images, ids, classes.names, image, folder, column, captions)
