"""Warnings of other libraries that say nothing to a user, kept away while our code runs, from any thread."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOCK = threading.Lock()
BLOCKS = 0
"""Blocks that are open, in all threads."""
FILTERS = warnings.catch_warnings()
"""Holds the filters of before the first block that is open."""


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Ignore every warning inside.

    `warnings.catch_warnings` alone is not for threads: where two blocks overlap, the one that ends last puts back the
    other's filters, and warnings stay off for good. Here the first block to begin stores the filters and the last to
    end restores them. While a block is open, other threads are quiet, too.
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
