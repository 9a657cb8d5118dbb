"""Where what is fetched is kept: places that cannot be written are replaced before a library stumbles over them.

The hub's client, torch and matplotlib write below the home folder. In containers, on clusters and after `sudo` it may
be missing, read-only or somebody else's. Places that the user named by a variable of their own are left alone.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

logger = logging.getLogger("nextscale")

FETCHED = {"HF_HOME": ("huggingface", "hub"), "TORCH_HOME": ("torch", "hub")}
"""Variables that move a library's cache: its folder below the cache folder, and the folder in there it writes to."""


def settle_caches(environment: MutableMapping[str, str] = os.environ) -> None:
    """Point libraries to a temporary folder where their usual one cannot be written, and say so in one line."""
    home = environment.get("HOME") or home_of_this_user()
    usual = Path(environment.get("XDG_CACHE_HOME") or f"{home}/.cache")
    plots = Path(environment.get("XDG_CONFIG_HOME") or f"{home}/.config") / "matplotlib"
    moved: dict[str, Path] = {}
    if not can_write(usual):
        moved = {"XDG_CACHE_HOME": usual} | {name: usual / places[0] for name, places in FETCHED.items()}
    for name, (folder, inner) in FETCHED.items():
        if not (can_write(usual / folder) and can_write(usual / folder / inner)):
            moved[name] = usual / folder
    moved = {name: place for name, place in moved.items() if name == "XDG_CACHE_HOME" or not environment.get(name)}
    quiet = {} if can_write(plots) or environment.get("MPLCONFIGDIR") else {"MPLCONFIGDIR": "matplotlib"}
    if not moved and not quiet:
        return
    try:
        instead = own_temporary_folder()
    except OSError:
        return  # then there is no better place, and whatever needs one says so
    for name in moved:
        environment[name] = str(instead / FETCHED[name][0] if name in FETCHED else instead)
    for name, folder in quiet.items():
        environment[name] = str(instead / folder)
    if moved:
        name, place = next(iter(moved.items()))
        logger.info("%s cannot be written: what is fetched is kept in %s; %s names another place", place, instead, name)


def home_of_this_user() -> str:
    """The home folder, or one that is not there for a user who has none."""
    try:
        return str(Path.home())
    except RuntimeError:
        return "/nowhere"


def can_write(place: Path) -> bool:
    """Whether a folder can be written, or made where it is not there yet."""
    existing = next(path for path in (place, *place.parents) if os.path.lexists(path))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def own_temporary_folder() -> Path:
    """A folder of this user's alone, the same one for later commands. Raises OSError."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / "nextscale"
    folder = Path(tempfile.gettempdir()) / f"nextscale-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # laid there by somebody else
        return Path(tempfile.mkdtemp(prefix="nextscale-"))
    return folder
