"""Results that a page shows before anything was asked.

Imports no gradio.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from nextscale.pipeline import VARPipeline
from nextscale.studio.desk import Desk

log = logging.getLogger(__name__)
Made = TypeVar("Made")
SMALL = 5e7
"""Parameters up to which a CPU draws images in a moment."""
PATIENCE = 5.0
"""Seconds that a page waits for such a result."""


def quick(pipeline: VARPipeline) -> bool:
    """Whether a model draws in a moment: it is small, or not on a CPU."""
    return pipeline.device.type != "cpu" or pipeline.family.parameters(pipeline.transformer) <= SMALL


class FirstResult(Generic[Made]):
    """What `make` returns, made once, in a turn at the model, when the first page is opened."""

    def __init__(self, desk: Desk, make: Callable[[], Made], *pipelines: VARPipeline) -> None:
        self.wanted = all(map(quick, pipelines))
        self._desk, self._make = desk, make
        self.made: Made | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._lock = threading.Lock()

    def _work(self) -> None:
        with self._desk.visitors.line.turn():
            try:
                self.made = self._make()
            except ValueError as error:  # such as a class that the other model lacks: the page opens without
                log.info("nothing is shown at first: %s", error)

    def result(self) -> Made | None:
        """None for a large model on a CPU, and where the model has no time."""
        if not self.wanted:
            return None
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()
        self._thread.join(PATIENCE)
        return self.made
