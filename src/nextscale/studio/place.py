"""Where the files of a studio lie. Imports no gradio, which looks for its place when it is imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

VARIABLE = "GRADIO_TEMP_DIR"


def temporary_folder() -> Path:
    """A new folder for the files of a studio. Raises ValueError where none can be made."""
    try:
        return Path(tempfile.mkdtemp(prefix="nextscale-studio-"))
    except OSError as error:
        raise ValueError(
            f"no temporary folder can be made ({' '.join(str(error).split())}); set TMPDIR to a writable folder"
        ) from error


def take_files(folder: Path) -> None:
    """Have gradio keep uploads and its copies of files there: its own place is shared by all users of a machine."""
    os.environ[VARIABLE] = str(folder)


def release_files(folder: Path) -> None:
    """Undo `take_files`."""
    if os.environ.get(VARIABLE) == str(folder):
        del os.environ[VARIABLE]
