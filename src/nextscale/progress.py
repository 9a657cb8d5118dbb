"""Progress of long work on stderr: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger("nextscale")

Advance = Callable[[int], None]
"""Called with the number of items done."""
Announce = Callable[[str, int], Advance]
"""Called with the title and total of a stage that begins; ends the stage before. Returns the stage's `Advance`."""


def silent(title: str, total: int) -> Advance:
    """An `Announce` that shows nothing."""
    return lambda done: None


@lru_cache(maxsize=1)
def stderr_console() -> Console:
    """The console that bars and log lines share."""
    from rich.console import Console

    return Console(stderr=True)


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def rate(each_second: float) -> str:
    """A number per second, never rounded to 0: 54, 5.4, 0.42."""
    return f"{each_second:.0f}" if each_second >= 10 else f"{each_second:.2g}"


class Progress:
    """How many of `total` are done, and the time left: as a bar on a terminal, else as lines of the log.

    In a log, every `note` writes a line; `advance` writes one every `line_seconds`, None for never.
    """

    def __init__(
        self, total: int, *, title: str, start: int = 0, enabled: bool = True, line_seconds: float | None = None
    ) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.total, self.first, self.title, self.enabled = total, start, title, enabled
        self.line_seconds = line_seconds
        self.began = self.last_line = time.monotonic()
        console = stderr_console()
        self.bar = None
        if enabled and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=console)
            self.bar.start()
            self.task = self.bar.add_task(title, total=total, completed=start, note="")

    def advance(self, done: int) -> None:
        """Move to `done` of the total."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done)
        elif self.line_seconds is not None and time.monotonic() - self.last_line > self.line_seconds:
            self.note(done, "")

    def note(self, done: int, text: str) -> None:
        """Show a text beside the bar, or in a line with the time left."""
        self.last_line = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=text)
        elif self.enabled:
            spent = self.last_line - self.began
            left = spent / max(1, done - self.first) * (self.total - done)
            parts = [f"{self.title} {done}/{self.total}", text, f"{duration(spent)}, {duration(left)} left"]
            logger.info("  ".join(part for part in parts if part))

    def aside(self, title: str, total: int) -> Advance:
        """An `Advance` of work that is not counted here: shown beside the bar, or as a line every 20 seconds."""
        last = time.monotonic()

        def advance(done: int) -> None:
            nonlocal last
            if self.bar is not None:
                self.bar.update(self.task, note=f"{title} {done}/{total}")
            elif self.enabled and time.monotonic() - last > 20:
                last = time.monotonic()
                logger.info("%s %d/%d", title, done, total)

        return advance

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


class Stages:
    """The progress of stages, one after the other; `start` is an `Announce`."""

    def __init__(self, *, enabled: bool = True, line_seconds: float = 20) -> None:
        self.enabled, self.line_seconds = enabled, line_seconds
        self.current: Progress | None = None

    def start(self, title: str, total: int) -> Advance:
        """Begin the next stage."""
        self.close()
        self.current = Progress(total, title=title, line_seconds=self.line_seconds, enabled=self.enabled)
        return self.current.advance

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self.current is not None:
            self.current.close()
            self.current = None
