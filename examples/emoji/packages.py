"""npm packages of emoji: fetching them, and reading that of Noto's pictures and of all emoji by category."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE = "emoji-datasource-google@16.0.0"
CLASSES = (
    "activities", "animals", "flags", "food", "objects", "people", "smileys", "symbols", "travel",
)  # fmt: skip
CATEGORIES = {
    "Activities": "activities", "Animals & Nature": "animals", "Flags": "flags", "Food & Drink": "food",
    "Objects": "objects", "People & Body": "people", "Smileys & Emotion": "smileys", "Symbols": "symbols",
    "Travel & Places": "travel",
}  # fmt: skip


def fetch(folder: Path, package: str = PACKAGE, flag: str = "--package") -> Path:
    """Download a package into a folder; returns its archive."""
    try:
        done = subprocess.run(["npm", "pack", package], cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        fail(f"{package} could not be fetched with npm ({reason}); give its .tgz file with {flag}")
        raise AssertionError from error
    return folder / done.stdout.split()[-1]


def read_package(archive: Path) -> tuple[list[dict], dict[str, bytes]]:
    """The list of emoji and the pictures by file name. Raises ValueError for another archive."""
    pictures: dict[str, bytes] = {}
    entries: list[dict] = []
    try:
        with tarfile.open(archive) as package:
            for member in package:
                name = Path(member.name)
                file = package.extractfile(member) if member.isfile() else None
                if file is not None and name.name == "emoji.json":
                    entries = json.load(file)
                elif file is not None and name.match("img/google/64/*.png"):
                    pictures[name.name] = file.read()
    except tarfile.TarError as error:
        raise ValueError(f"{archive}: not an npm package ({error})") from error
    if not entries or not pictures:
        raise ValueError(f"{archive}: holds no emoji.json with img/google/64/*.png; expected {PACKAGE}")
    return entries, pictures


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
