"""Progress of a command, and its results: a JSON file, and folders whose pictures, grid and manifest always agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nextscale.data.folders import GRID, MANIFEST
from nextscale.files import complete_folder, file_hash, write_json
from nextscale.progress import Announce, Stages


@contextmanager
def at_work(*, shown: bool = True) -> Iterator[Announce]:
    """For the long part of a command: it keeps freed memory from here on, and announces its stages if `shown`."""
    from nextscale.runtime import retain_freed_memory

    retain_freed_memory()
    with Stages(enabled=shown) as stages:
        yield stages.start


def write_results(file: str, values: Any) -> None:
    """Write the file that `--json` names, if it names one."""
    if file:
        write_json(Path(file), values)


@contextmanager
def results_folder(out: Path, most: int) -> Iterator[Path]:
    """`complete_folder` for up to `most` pictures, from which pictures of an earlier run are removed.

    Files of an earlier run are those in its manifest whose hash is still the same; they are replaced or removed. Other
    files stay. Raises ValueError at the start where this run would write over one of those.
    """
    before = listed(out)
    require_ours(out, before, most)
    with complete_folder(out) as folder:
        yield folder
    now = listed(out)
    stale = [name for name in before if name not in now and is_unchanged(out / name, before)]
    for name in stale:
        (out / name).unlink()
    if stale:
        print(f"removed {named(stale)} of the run before")
    foreign = sorted(path.name for path in out.glob("[0-9]" * 6 + ".png") if path.name not in now)
    if foreign:
        print(f"left alone, but not of this run: {named(foreign)}")


def require_ours(out: Path, before: dict[str, str], most: int) -> None:
    """Raises ValueError where a file that would be written over is not an earlier run's."""
    numbers = (f"{number:06d}.png" for number in range(most))
    foreign = [name for name in numbers if (out / name).exists() and not is_unchanged(out / name, before)]
    foreign += [GRID] if not before and (out / GRID).exists() else []
    if foreign:
        raise ValueError(
            f"{out}: holds {named(foreign)}, which no earlier run left there as it is now; choose another --out, or "
            "move it away"
        )


def is_unchanged(path: Path, before: dict[str, str]) -> bool:
    """Whether a file is as the manifest of the run before lists it."""
    return path.name in before and path.is_file() and file_hash(path) == before[path.name]


def write_manifest(folder: Path, entries: list[dict[str, Any]]) -> None:
    """One line of JSON for each picture."""
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / MANIFEST).write_text(lines, encoding="utf-8")


def listed(folder: Path) -> dict[str, str]:
    """Hash of each file by a folder's manifest; empty where there is no readable one."""
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        return {entry["file"]: entry["sha256"] for entry in entries if Path(entry["file"]).name == entry["file"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def named(names: list[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, what: str) -> str:
    """A number and its noun: 1 image, 2 images."""
    return f"{number} {what}" + ("s" if number != 1 else "")
