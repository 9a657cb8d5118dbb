"""Files of a data set: which count, and what is passed over and said."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger("nextscale.data")

IMAGE_SUFFIXES = frozenset(
    (
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".heic", ".heif", ".bmp", ".dib", ".gif",
        ".tif", ".tiff", ".jp2", ".tga", ".ppm", ".pgm", ".pbm", ".pnm",
    )
)  # fmt: skip
"""What is read as an image; one that Pillow cannot open is counted as unreadable, so that no class vanishes."""
TABLES = {".parquet": "parquet", ".tar": "webdataset"}
"""Files of many images, and what their kind is called."""
FOREIGN = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__", "thumbs.db",
     "desktop.ini")
)  # fmt: skip
"""What operating systems, network disks and Python leave beside files, in lower case."""
SPLITS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "heldout": "heldout", "held-out": "heldout", "held_out": "heldout", "holdout": "heldout",
}  # fmt: skip
"""Names of parts of a data set, which are no classes, and the part that each means; the first is the usual one."""
GRID, MANIFEST = "grid.png", "manifest.jsonl"
"""What this program writes beside images that it generates."""


@dataclass
class PassedOver:
    """What was left out of a data set."""

    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)
    "Number and first name of each kind."

    def add(self, kind: str, name: str | Path) -> None:
        """Note one."""
        count, first = self.kinds.get(kind, (0, str(name)))
        self.kinds[kind] = (count + 1, first)

    def __str__(self) -> str:
        return "; ".join(
            f"{kind}: {count} ({first}{', ...' if count > 1 else ''})" for kind, (count, first) in self.kinds.items()
        )

    def say(self, where: str | Path) -> None:
        """One line of the log, if there was anything."""
        if self.kinds:
            logger.warning("data %s: passed over %s", where, self)


def unwanted(name: str) -> str:
    """Why a file or folder of this name never counts; empty if it may."""
    if name.startswith("."):
        return "hidden"
    return "left by other programs" if name.lower() in FOREIGN else ""


def is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def walk_images(folder: Path, passed: PassedOver, top: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """All image files at any depth in the order of their names; links are followed. `passed` names from `top`."""
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
        elif (kind := kind_of(entry)) == "folder":
            there = path.stat()
            if (there.st_dev, there.st_ino) in above:
                passed.add("links to a folder they lie in", path.relative_to(top))
            else:
                yield from walk_images(path, passed, top, above)
        elif kind != "file":
            passed.add("broken links" if entry.is_symlink() else "special files", path.relative_to(top))
        elif ours and entry.name == GRID:
            passed.add("overviews of generated images", path.relative_to(top))
        elif is_image_name(entry.name):
            yield path
        else:
            passed.add("other files", path.relative_to(top))


def kind_of(entry: os.DirEntry[str]) -> str:
    """`folder` or `file`, of links what they lead to; empty for anything else."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:  # a link to itself
        return ""


def images_below(folder: Path) -> list[Path]:
    """All image files at any depth, sorted; says what was passed over."""
    passed = PassedOver()
    found = list(walk_images(folder, passed, folder))
    passed.say(folder)
    return found


def class_of(file: Path, top: Path) -> str:
    """Name of the folder below `top` that a file lies in; empty for one directly inside."""
    parts = file.relative_to(top).parts
    return parts[0] if len(parts) > 1 else ""


def require_classes(folders: Iterable[str], where: str | Path) -> None:
    """Raises ValueError where some images lie in folders, which are classes, and some beside them."""
    folders = set(folders)
    if "" in folders and len(folders) > 1:
        raise ValueError(
            f"data {where}: holds images both beside and inside subfolders; move all into subfolders (classes) "
            "or all into the folder itself (unconditional)"
        )


def require_no_splits(folders: Iterable[str], where: str | Path, *, advice: str = "") -> None:
    """Raises ValueError where folders are parts of a data set (`train`, `test`), not classes.

    `advice` is what to do; without it, to name one of the folders.
    """
    folders = set(folders)
    splits = sorted(
        (name for name in folders if name.lower() in SPLITS), key=lambda name: list(SPLITS).index(name.lower())
    )
    if len(splits) > 1 or (splits and len(folders) == 1):  # a single one beside others may be a class: trains are
        advice = advice or f"name one, as in --data {Path(where) / splits[0]}"
        raise ValueError(f"data {where}: holds parts of a data set ({', '.join(splits)}), not classes; {advice}")


def table_files(spec: Path, split: str, passed: PassedOver) -> tuple[str, list[Path]] | None:
    """Kind and files of a parquet or WebDataset set: a file, a folder, its subfolder `data`, or a pattern with `*`.

    Of files named after splits (`train-00000-of-00001.parquet`) those of `split` are taken. None for other data.
    Raises ValueError where the split is not among them.
    """
    if spec.is_file():
        kind = TABLES.get(spec.suffix.lower())
        return None if kind is None else (kind, [spec])
    if spec.is_dir():
        entries = sorted(entry for entry in spec.iterdir())
    elif "*" in spec.name and spec.parent.is_dir():
        entries = sorted(spec.parent.glob(spec.name))
    else:
        return None
    for suffix, kind in TABLES.items():
        files = [entry for entry in entries if entry.suffix.lower() == suffix and entry.is_file()]
        wanted = [file for file in files if not unwanted(file.name)]
        if not wanted:
            continue
        chosen = of_split(wanted, split, spec, passed) if spec.is_dir() else wanted
        for entry in entries:
            if entry not in wanted:
                passed.add(unwanted(entry.name) or "other files and folders", entry.name)
        return kind, chosen
    if (spec / "data").is_dir() and not any(entry.is_dir() and entry.name != "data" for entry in visible(entries)):
        return table_files(spec / "data", split, passed)  # a set as it lies on the hub
    return None


def visible(entries: Iterable[Path]) -> list[Path]:
    return [entry for entry in entries if not unwanted(entry.name)]


def of_split(files: list[Path], split: str, where: Path, passed: PassedOver) -> list[Path]:
    """Files of one split, where their names tell of several."""
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
    """Word for a split in a file's name (`train-00000-of-00001`, `imagenet-val-03`); empty if there is none."""
    return next((word for word in re.split(r"[-_. ]+", file.stem.lower()) if word in SPLITS), "")
