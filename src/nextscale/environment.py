"""How this process gets on with the libraries it loads: threads that wait, places for caches, warnings.

Imports nothing of ours, nor torch: threads and caches are settled before it is loaded.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("nextscale")

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""A waiting thread checks a thousand times, some microseconds, then sleeps (GNU's OpenMP; others sleep at once).

Sleeping at once costs a small model 5 % of its speed. GNU's default of 300,000 checks brings it to a standstill beside
another busy process (`benchmarks/busy.py`)."""
POLICIES = (*WAITING, "KMP_BLOCKTIME")
"""Variables with which a user chooses how threads wait; where one is set, nothing is changed."""
FETCHED = {"HF_HOME": ("huggingface", "hub"), "TORCH_HOME": ("torch", "hub")}
"""Variables that move a library's cache: its folder below the cache folder, and the folder in there it writes to."""

LOCK = threading.Lock()
BLOCKS = 0
"""Blocks of `quiet_warnings` that are open, in all threads."""
FILTERS = warnings.catch_warnings()
"""Holds the filters from before the first open block."""


def share_the_processor() -> None:
    """Let threads that wait for others soon sleep instead of spin, in this process and those it starts.

    OpenMP's threads otherwise keep their cores busy at every barrier. Beside another busy process, each then waits for
    a thread that has no core. Has an effect only before torch is imported.
    """
    if not any(name in os.environ for name in POLICIES):
        os.environ |= WAITING


def settle_caches(environment: MutableMapping[str, str] = os.environ) -> None:
    """Point libraries to a temporary folder where their usual one cannot be written, and log it in one line.

    The hub's client, torch and matplotlib write below the home folder. In containers, on clusters and after `sudo` it
    may be missing, read-only or another user's. Places that the user named by a variable are left alone.
    """
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
    plots_move = not (can_write(plots) or environment.get("MPLCONFIGDIR"))
    if not moved and not plots_move:
        return
    try:
        instead = own_temporary_folder()
    except OSError:
        return  # there is no better place; a library that needs one reports it
    for name in moved:
        environment[name] = str(instead / FETCHED[name][0] if name in FETCHED else instead)
    if plots_move:
        environment["MPLCONFIGDIR"] = str(instead / "matplotlib")
    if moved:
        name, place = next(iter(moved.items()))
        logger.info("%s cannot be written: what is fetched is kept in %s; %s names another place", place, instead, name)


def home_of_this_user() -> str:
    """The home folder; a path that does not exist for a user without one."""
    try:
        return str(Path.home())
    except RuntimeError:
        return "/nowhere"


def can_write(place: Path) -> bool:
    """Whether a folder can be written, or created where it does not exist yet."""
    existing = next(path for path in (place, *place.parents) if os.path.lexists(path))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def own_temporary_folder() -> Path:
    """A folder of this user's alone, the same one for later commands. Raises OSError."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / "nextscale"
    folder = Path(tempfile.gettempdir()) / f"nextscale-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # created by another user
        return Path(tempfile.mkdtemp(prefix="nextscale-"))
    return folder


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Ignore every warning inside, from any thread.

    `warnings.catch_warnings` alone is not safe with threads: where two blocks overlap, the one that ends last restores
    the other's filters, and warnings stay off for good. Here the first block to begin stores the filters and the last
    to end restores them. While a block is open, other threads are quiet, too.
    """
    global BLOCKS, FILTERS
    if getattr(sys.flags, "context_aware_warnings", False):  # Python 3.14: filters can belong to a thread
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        return
    with LOCK:
        if BLOCKS == 0:
            FILTERS = warnings.catch_warnings()
            FILTERS.__enter__()
            warnings.simplefilter("ignore")
        BLOCKS += 1
    try:
        yield
    finally:
        with LOCK:
            BLOCKS -= 1
            if BLOCKS == 0:
                FILTERS.__exit__(None, None, None)
