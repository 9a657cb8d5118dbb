"""Folders of results: pictures, a grid and a manifest that always agree with each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nextscale.files import complete_folder

GRID, MANIFEST = "grid.png", "manifest.jsonl"


@contextmanager
def results_folder(out: Path, most: int) -> Iterator[Path]:
    """`complete_folder` for up to `most` pictures, without what an earlier run left and this one does not make.

    Files of the earlier run are those that its manifest lists with the hash that they still have; they are replaced or
    removed. Others stay: where this run would write over one, ValueError says so at the start.
    """
    before = listed(out)
    require_ours(out, before, most)
    with complete_folder(out) as folder:
        yield folder
    now = listed(out)
    stale = [out / name for name in before if name not in now]
    gone = [path for path in stale if is_unchanged(path, before)]
    for path in gone:
        path.unlink()
    if gone:
        print(f"removed {named([path.name for path in gone])} of the run before")
    strange = sorted(path.name for path in out.glob("[0-9]" * 6 + ".png") if path.name not in now)
    if strange:
        print(f"left alone, but not of this run: {named(strange)}")


def require_ours(out: Path, before: dict[str, str], most: int) -> None:
    """Raises ValueError where a picture that is to be written is there already and not of the run before."""
    numbers = (f"{number:06d}.png" for number in range(most))
    foreign = [name for name in numbers if (out / name).exists() and not is_unchanged(out / name, before)]
    foreign += [GRID] if not before and (out / GRID).exists() else []
    if foreign:
        raise ValueError(
            f"{out}: holds {named(foreign)}, which no earlier run left there as it is now; choose another --out, or "
            "move it away"
        )


def is_unchanged(path: Path, before: dict[str, str]) -> bool:
    """Whether a file is in the manifest of the run before, and as it has it."""
    return path.name in before and path.is_file() and file_hash(path) == before[path.name]


def write_manifest(folder: Path, entries: list[dict[str, Any]]) -> None:
    """One line of JSON for each picture."""
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / MANIFEST).write_text(lines, encoding="utf-8")


def listed(folder: Path) -> dict[str, str]:
    """Hash of each file of a folder's manifest; nothing where there is none that is readable."""
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        return {entry["file"]: entry["sha256"] for entry in entries if Path(entry["file"]).name == entry["file"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def named(names: list[str], most: int = 4) -> str:
    """A few names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, what: str) -> str:
    """1 image, 2 images."""
    return f"{number} {what}" + ("s" if number != 1 else "")
