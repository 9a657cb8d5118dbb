"""Previews cost no more than the work that they show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Step = TypeVar("Step")

SHARE = 0.8
"""Time for previews as a share of that of the steps."""


def paced(
    steps: Iterator[Step], share: float = SHARE, clock: Callable[[], float] = time.perf_counter
) -> Iterator[tuple[Step, bool]]:
    """Each step, and whether it is worth a preview.

    It is where all previews so far, and another one as dear as the last, take at most `share` of the time that the
    steps took: all of them where they are cheap, some of them where decoding costs more than sampling.
    """
    began, worked, last = clock(), 0.0, 0.0
    while True:
        before = clock()
        step = next(steps, None)
        now = clock()
        if step is None:
            return
        worked += now - before
        wanted = now - began - worked + last <= share * worked
        yield step, wanted
        if wanted:
            last = clock() - now
