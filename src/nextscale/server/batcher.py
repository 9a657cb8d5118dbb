"""Requests that arrive together are worked on together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from nextscale.server.jobs import Job, Stage

Run = Callable[[Sequence[Job], Callable[[int], bool]], Iterator[list[Stage | None]]]
"""Works on jobs of one key: a stage or None per job and step; is told which rows are still wanted."""


@dataclass(eq=False)
class Ticket:
    """A job in the queue, and where its stages go."""

    job: Job
    stages: asyncio.Queue[Stage | BaseException] = field(default_factory=asyncio.Queue)
    abandoned: bool = False


class Batcher:
    """One group after the other in a thread of its own; whatever waits meanwhile makes up the next.

    A group is the job that waits longest and those of its key, up to `most`, in the order they came. Jobs that nobody
    waits for any more leave the queue at once, and a running group is given up when that holds for all of it.
    """

    def __init__(self, run: Run, *, most: int, linger: float = 0.003) -> None:
        """`linger`: seconds to wait for company when fewer than `most` are there."""
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
                await loop.run_in_executor(self.thread, self.drive, group, loop)
            else:
                self.arrived.clear()

    def next_group(self) -> list[Ticket]:
        """The job that waits longest with those that go with it, taken from the queue."""
        if not self.waiting:
            return []
        key = self.waiting[0].job.key
        group = [ticket for ticket in self.waiting if ticket.job.key == key][: self.most]
        for ticket in group:
            self.waiting.remove(ticket)
        return group

    def drive(self, group: list[Ticket], loop: asyncio.AbstractEventLoop) -> None:
        """Work on a group, handing stages over to the event loop as they come."""
        try:
            for stages in self.run([ticket.job for ticket in group], lambda row: not group[row].abandoned):
                for ticket, stage in zip(group, stages, strict=True):
                    if stage is not None:
                        loop.call_soon_threadsafe(ticket.stages.put_nowait, stage)
            end: Exception = RuntimeError("the work ended without a result")
        except Exception as error:
            end = error
        for ticket in group:  # which a job that has its result does not read
            loop.call_soon_threadsafe(ticket.stages.put_nowait, end)
