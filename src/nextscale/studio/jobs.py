"""Jobs take turns at the model, and go on when their page is closed: a page that is loaded again finds them.

Imports no gradio.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from nextscale.studio.pictures import encoded

log = logging.getLogger(__name__)

WAITING = 64
"""Jobs that may wait; more are refused."""
VISITORS = 100
"""Browsers whose results are kept; of more, those go that were not seen for longest."""

Update = dict[Any, Any]
"""New values of the page, by component."""


class Line:
    """Jobs and others that wait for the model, in the order they came; `news` is notified of every change."""

    def __init__(self) -> None:
        self.news = threading.Condition()
        self._waiting: list[object] = []

    def join(self, one: object) -> None:
        """Raises ValueError where too many wait already."""
        with self.news:
            if len(self._waiting) > WAITING:
                raise ValueError(f"{WAITING} jobs are waiting already; try again later")
            self._waiting.append(one)

    def leave(self, one: object) -> None:
        with self.news:
            self._waiting.remove(one)
            self.news.notify_all()

    def before(self, one: object) -> int:
        """How many come first; 0 for the one whose turn it is."""
        return self._waiting.index(one) if one in self._waiting else 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn at the model, and have it."""
        one = object()
        self.join(one)
        try:
            with self.news:
                self.news.wait_for(lambda: self.before(one) == 0)
            yield
        finally:
            self.leave(one)


class Job:
    """Work in a thread of its own that makes updates of the page; they are kept for all pages that follow it."""

    def __init__(self, line: Line, visitor: Visitor, folder: Path, work: Callable[[Job], Iterator[Update]]) -> None:
        self.line, self.visitor, self.folder, self._work = line, visitor, folder, work
        self.made: list[Update] = []
        self.done = self.stopped = False
        self.error = ""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Take a place in the line. Raises ValueError where it is too long."""
        self.line.join(self)
        self._thread.start()

    def shown(self, image: Image.Image) -> str:
        """Write a picture to a file, which stays until the job is forgotten; returns its path."""
        return str(encoded(image, self.folder))

    def stop(self) -> None:
        """Have the job end after its present step."""
        with self.line.news:
            self.stopped = True
            self.line.news.notify_all()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            with self.line.news:
                self.line.news.wait_for(lambda: self.stopped or self.before == 0)
            for update in self._work(self) if not self.stopped else ():
                with self.line.news:
                    self.made.append(update)
                    self.line.news.notify_all()
                if self.stopped:
                    break
        except ValueError as error:
            self.error = one_line(error)
        except Exception as error:
            log.exception("a job of the studio failed")
            self.error = f"something broke ({one_line(error) or type(error).__name__}); the studio's log says where"
        finally:
            self.done = True
            self.line.leave(self)

    @property
    def before(self) -> int:
        """How many jobs come first."""
        return self.line.before(self)

    def follow(self) -> Iterator[Update | int]:
        """All updates so far as one, then each new one until the job ends; as a number, how many jobs come first."""
        with self.line.news:
            seen, before = len(self.made), 0
            past = {key: value for update in self.made for key, value in update.items()}
        if past:
            yield past
        while True:
            with self.line.news:
                self.line.news.wait_for(
                    lambda seen=seen, before=before: len(self.made) > seen or self.done or self.before != before
                )
                new, before, done = self.made[seen:], self.before, self.done
            if before and not done:
                yield before
            yield from new
            seen += len(new)
            if done:
                return


@dataclass
class Visitor:
    """What one browser has made, and its last job on each tab."""

    made: list[tuple[str, str]] = field(default_factory=list)
    "Files and captions of finished images, the newest first."
    edited: list[tuple[str, str]] = field(default_factory=list)
    "The same of edits."
    canvas: tuple[str, str] | None = None
    "The image last edited, as a file, and its mask."
    jobs: dict[str, Job] = field(default_factory=dict)

    def remove(self, path: str) -> None:
        """Forget a finished image, and remove its file."""
        for images in (self.made, self.edited):
            images[:] = [one for one in images if one[0] != path]
        shutil.rmtree(Path(path).parent, ignore_errors=True)

    def forget(self) -> None:
        """Stop what runs, and remove all files."""
        for job in self.jobs.values():
            job.stop()
            shutil.rmtree(job.folder, ignore_errors=True)
        for path, _ in (*self.made, *self.edited):
            shutil.rmtree(Path(path).parent, ignore_errors=True)


class Visitors:
    """Browsers by the token that each keeps, and their jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.line = folder, Line()
        self._known: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def visitor(self, token: str | None) -> Visitor:
        """The visitor of a token; a new one without a token."""
        if not token:
            return Visitor()
        with self._lock:
            one = self._known.setdefault(token, Visitor())
            self._known.move_to_end(token)
            gone = [self._known.popitem(last=False)[1] for _ in range(len(self._known) - VISITORS)]
        for other in gone:
            other.forget()
        return one

    def begin(self, token: str | None, tab: str, work: Callable[[Job], Iterator[Update]]) -> Job:
        """Start a job in place of the last one of that tab. Raises ValueError where too many wait."""
        visitor = self.visitor(token)
        folder = self.folder / f"job-{secrets.token_hex(8)}"
        job = Job(self.line, visitor, folder, work)
        job.start()
        if before := visitor.jobs.get(tab):
            shutil.rmtree(before.folder, ignore_errors=True)
        visitor.jobs[tab] = job
        return job

    def end_jobs(self) -> None:
        """Stop all jobs, wait for their present steps, and forget them; what was made stays."""
        self.close()
        for one in self._known.values():
            for job in one.jobs.values():
                shutil.rmtree(job.folder, ignore_errors=True)
            one.jobs.clear()

    def close(self) -> None:
        """Stop all jobs, and wait for their present steps."""
        jobs = [job for one in self._known.values() for job in one.jobs.values()]
        for job in jobs:
            job.stop()
        for job in jobs:
            job.join(10)


def one_line(error: Exception) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())
