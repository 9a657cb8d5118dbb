"""Queues: how many images may wait in front of the server, and which of them a model works on together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from nextscale.server.jobs import Job, Stage
from nextscale.server.problems import Refused

Run = Callable[[Sequence[Job], Callable[[int], bool]], Iterator[list[Stage | None]]]
"""Works on jobs of one key: yields a stage or None per job and step. The second argument: is row i still wanted?"""


class Admission:
    """A bound on the number of images that are waiting or in work."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.pending = 0
        self.draining = False
        self.seconds_each = 0.1
        "Time between finished images under load, a running mean."
        self.finished_at: float | None = None

    def enter(self, images: int) -> None:
        """Count a request in. Raises Refused when there is no room or the server is stopping."""
        if self.draining:
            raise Refused(503, "the server is stopping; try another one, or later", retry_after=5)
        if images > self.most:
            raise Refused(400, f"n: at most {self.most} images fit into the queue, got {images}", param="n")
        if self.pending + images > self.most:
            wait = min(60, math.ceil(max(1.0, self.pending * self.seconds_each)))
            line = f"{self.pending} images are waiting, of {self.most} at most; try again in {wait} s"
            raise Refused(429, line, retry_after=wait)
        self.pending += images

    def leave(self, images: int) -> None:
        """Count a request out, however it ended."""
        now = time.monotonic()
        if self.finished_at is not None and self.pending > images:
            self.seconds_each += 0.1 * (min(60.0, (now - self.finished_at) / images) - self.seconds_each)
        self.finished_at = now
        self.pending -= images


@dataclass(eq=False)
class Ticket:
    """A job in the queue, and where its stages go."""

    job: Job
    stages: asyncio.Queue[Stage | BaseException] = field(default_factory=asyncio.Queue)
    abandoned: bool = False


class Batcher:
    """Works on one group of jobs after the other in a thread of its own; jobs that come meanwhile wait.

    A group is the job that has waited longest and others of its key, up to `most`, in the order they came. A job that
    nobody waits for any more leaves the queue at once; a running group is given up when that holds for all its jobs.
    """

    def __init__(self, run: Run, *, most: int, linger: float = 0.003) -> None:
        """`linger`: seconds to wait for more jobs when fewer than `most` are there."""
        self.run, self.most, self.linger = run, most, linger
        self.waiting: deque[Ticket] = deque()
        self.arrived = asyncio.Event()
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.task: asyncio.Task[None] | None = None

    async def stream(self, job: Job) -> AsyncIterator[Stage]:
        """The stages of a job. Raises what working on it raised."""
        if self.task is None:
            self.task = asyncio.create_task(self.work())
        ticket = Ticket(job)
        self.waiting.append(ticket)
        self.arrived.set()
        try:
            while True:
                stage = await ticket.stages.get()
                if isinstance(stage, BaseException):
                    raise stage
                yield stage
                if stage.final:
                    return
        finally:
            ticket.abandoned = True
            with suppress(ValueError):
                self.waiting.remove(ticket)

    async def work(self) -> None:
        """Group after group, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self.arrived.wait()
            if len(self.waiting) < self.most:
                await asyncio.sleep(self.linger)
            if group := self.next_group():
                await loop.run_in_executor(self.thread, self.work_on, group, loop)
            else:
                self.arrived.clear()

    def next_group(self) -> list[Ticket]:
        """Take the next group from the queue."""
        if not self.waiting:
            return []
        key = self.waiting[0].job.key
        group = [ticket for ticket in self.waiting if ticket.job.key == key][: self.most]
        for ticket in group:
            self.waiting.remove(ticket)
        return group

    def work_on(self, group: list[Ticket], loop: asyncio.AbstractEventLoop) -> None:
        """Make the images of a group; each stage goes to the event loop as soon as it is there."""
        try:
            for stages in self.run([ticket.job for ticket in group], lambda row: not group[row].abandoned):
                for ticket, stage in zip(group, stages, strict=True):
                    if stage is not None:
                        loop.call_soon_threadsafe(ticket.stages.put_nowait, stage)
            end: Exception = RuntimeError("the work ended without a result")
        except Exception as error:
            end = error
        for ticket in group:  # a job that has its result does not read this
            loop.call_soon_threadsafe(ticket.stages.put_nowait, end)
