"""Files of a data set: which belong to it, and which are passed over and logged."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger("nextscale.data")

IMAGE_SUFFIX = re.compile(
    r"\.(a?png|jpe?g|jpe|jfif|webp|avif|hei[cf]|bmp|dib|gif|tiff?|jp2|tga|p[bgnp]m)", re.IGNORECASE
)
"""Files read as images; one that Pillow cannot open counts as unreadable, so that no class goes missing unnoticed."""
TABLES = {".parquet": "parquet", ".tar": "webdataset"}
"""Suffixes of files that hold many images, and the format of each."""
FOREIGN = re.compile(
    r"__macosx|@eadir|\$recycle\.bin|system volume information|lost\+found|__pycache__|thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)
"""Names that operating systems, network disks and Python leave beside files."""
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
    "heldout": ("heldout", "held-out", "held_out", "holdout"),
}
"""Splits of a data set, and the words for them in names of files and folders."""
SPLITS = {word: split for split, words in SPLIT_WORDS.items() for word in words}
"""The split that each word means. Folders of these names are no classes."""
OTHER = "other files"
"""Why files are passed over that are neither images nor about them."""
GRID, MANIFEST = "grid.png", "manifest.jsonl"
"""Files that `nextscale generate` writes beside its images."""


@dataclass
class PassedOver:
    """Files and folders that were left out of a data set."""

    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)
    "For each reason, their number and the first name."

    def add(self, kind: str, name: str | Path) -> None:
        """Count one more, left out for the reason `kind`."""
        count, first = self.kinds.get(kind, (0, str(name)))
        self.kinds[kind] = (count + 1, first)

    def __str__(self) -> str:
        return "; ".join(
            f"{kind}: {count} ({first}{', ...' if count > 1 else ''})" for kind, (count, first) in self.kinds.items()
        )

    def log(self, where: str | Path) -> None:
        """Log them in one line, if there are any."""
        if self.kinds:
            logger.warning("data %s: passed over %s", where, self)


def unwanted(name: str) -> str:
    """Why a file or folder of this name is always left out; empty if it is not."""
    if name.startswith("."):
        return "hidden"
    return "left by other programs" if FOREIGN.fullmatch(name) else ""


def is_image_name(name: str) -> bool:
    return IMAGE_SUFFIX.fullmatch(os.path.splitext(name)[1]) is not None


def walk_images(
    folder: Path,
    passed: PassedOver,
    top: Path,
    above: tuple[tuple[int, int], ...] = (),
    *,
    wanted: Callable[[str], bool] = is_image_name,
) -> Iterator[Path]:
    """All image files at any depth, sorted by name; links are followed. What is left out is added to `passed`.

    `top` is the folder that its names start below, `above` the device and inode of the folders around this one,
    `wanted` which names are taken.
    """
    here = folder.stat()
    above = (*above, (here.st_dev, here.st_ino))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        passed.add("unreadable folders", folder.relative_to(top))
        return
    ours = any(entry.name == MANIFEST for entry in entries)
    for entry in entries:
        path = folder / entry.name
        if kind := unwanted(entry.name):
            passed.add(kind, path.relative_to(top))
        elif (kind := entry_type(entry)) == "folder":
            there = path.stat()
            if (there.st_dev, there.st_ino) in above:
                passed.add("links to a folder they lie in", path.relative_to(top))
            else:
                yield from walk_images(path, passed, top, above, wanted=wanted)
        elif kind != "file":
            passed.add("broken links" if entry.is_symlink() else "special files", path.relative_to(top))
        elif ours and entry.name == GRID:
            passed.add("overviews of generated images", path.relative_to(top))
        elif wanted(entry.name):
            yield path
        else:
            passed.add(OTHER, path.relative_to(top))


def entry_type(entry: os.DirEntry[str]) -> str:
    """`folder` or `file`, for links by their target; empty for anything else."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:  # a link to itself
        return ""


def images_below(folder: Path) -> list[Path]:
    """All image files at any depth, sorted; logs what was passed over."""
    passed = PassedOver()
    found = list(walk_images(folder, passed, folder))
    passed.log(folder)
    return found


def class_of(file: Path, top: Path) -> str:
    """Name of the folder in `top` that a file lies in or below; empty for a file directly in `top`."""
    parts = file.relative_to(top).parts
    return parts[0] if len(parts) > 1 else ""


def require_classes(folders: Iterable[str], where: str | Path) -> None:
    """Raises ValueError where some images lie in folders (which are classes) and others beside them."""
    folders = set(folders)
    if "" in folders and len(folders) > 1:
        raise ValueError(
            f"data {where}: holds images both beside and inside subfolders; move all into subfolders (classes) "
            "or all into the folder itself (unconditional)"
        )


def require_no_splits(folders: Iterable[str], where: str | Path, *, advice: str = "") -> None:
    """Raises ValueError where folders are splits of a data set (`train`, `test`), not classes.

    `advice` ends the message; by default, it advises to name one of the folders.
    """
    folders = set(folders)
    splits = sorted(
        (name for name in folders if name.lower() in SPLITS), key=lambda name: list(SPLITS).index(name.lower())
    )
    if len(splits) > 1 or (splits and len(folders) == 1):  # a single one beside others may be a class
        advice = advice or f"name one, as in --data {Path(where) / splits[0]}"
        raise ValueError(f"data {where}: holds parts of a data set ({', '.join(splits)}), not classes; {advice}")


def table_files(spec: Path, split: str, passed: PassedOver) -> tuple[str, list[Path]] | None:
    """Format and files of a parquet set or WebDataset; None for other data.

    `spec` is a file, a folder, one with a subfolder `data`, or a pattern with `*`. Of files named after splits
    (`train-00000-of-00001.parquet`) those of `split` are taken. Raises ValueError where there are none of that split.
    """
    if spec.is_file():
        form = TABLES.get(spec.suffix.lower())
        return None if form is None else (form, [spec])
    if spec.is_dir():
        entries = sorted(spec.iterdir())
    elif "*" in spec.name and spec.parent.is_dir():
        entries = sorted(spec.parent.glob(spec.name))
    else:
        return None
    for suffix, form in TABLES.items():
        files = [entry for entry in entries if entry.suffix.lower() == suffix and entry.is_file()]
        wanted = [file for file in files if not unwanted(file.name)]
        if not wanted:
            continue
        chosen = of_split(wanted, split, spec, passed) if spec.is_dir() else wanted
        for entry in entries:
            if entry not in wanted:
                passed.add(unwanted(entry.name) or "other files and folders", entry.name)
        return form, chosen
    if (spec / "data").is_dir() and not any(entry.is_dir() and entry.name != "data" for entry in visible(entries)):
        return table_files(spec / "data", split, passed)  # the layout of sets on the hub
    return None


def visible(entries: Iterable[Path]) -> list[Path]:
    return [entry for entry in entries if not unwanted(entry.name)]


def of_split(files: list[Path], split: str, where: Path, passed: PassedOver) -> list[Path]:
    """The files of one split, if their names mention several; all files otherwise. Raises ValueError."""
    named = {file: split_of(file) for file in files}
    known = {SPLITS[name]: name for name in named.values() if name}
    if not known or (len(known) == 1 and all(named.values())):
        return files
    meant = SPLITS.get(split, split)
    if meant not in known:
        example = next(iter(known.values()))
        raise ValueError(
            f"data {where}: holds files of {', '.join(known.values())} and none of {split}; name them, as in "
            f'--data "{where / f"*{example}*{files[0].suffix}"}"'
        )
    chosen = [file for file in files if SPLITS.get(named[file]) == meant]
    for file in files:
        if file not in chosen:
            passed.add("files of other splits" if named[file] else "files that name no split", file.name)
    return chosen


def split_of(file: Path) -> str:
    """The word for a split in a file's name (`train-00000-of-00001`, `imagenet-val-03`); empty if there is none."""
    return next((word for word in re.split(r"[-_. ]+", file.stem.lower()) if word in SPLITS), "")
