"""Write files and folders so that they appear under their name only when complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def unwritable(path: Path, error: OSError) -> ValueError:
    """The error for a path that cannot be written, in one line."""
    return ValueError(f"{path}: cannot be written ({error.strerror or error}); choose another place")


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move to `folder` once the block ends without an error.

    A new `folder` appears with all files at once. In an existing one, files of the same names are replaced and all
    others left alone. Raises ValueError when it cannot be written, at the start if possible.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder}: is a file; expected a folder to write into")
        inside = folder.is_dir()  # its parent may be read-only
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder if inside else folder.parent))
    except OSError as error:
        _remove_empty(made)
        raise unwritable(folder, error) from error
    try:
        yield partial
        if not folder.exists():
            partial.chmod(0o777 & ~_umask())
            partial.rename(folder)
        else:
            for file in sorted(partial.rglob("*"), reverse=True):
                if file.is_file():
                    target = folder / file.relative_to(partial)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, target)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(made)


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A temporary path that is renamed to `path` once the block ends without an error.

    Raises ValueError when it cannot be written.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file, which appears only when complete."""
    with complete_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _remove_empty(folders: list[Path]) -> None:
    """Remove those of these folders that are empty, innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
