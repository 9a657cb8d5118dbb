"""Which jobs are worked on together, in which order, and what happens to those given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from nextscale.sampling.next_scale import SamplingConfig
from nextscale.server.jobs import Job, Stage
from nextscale.server.queues import Batcher

PIXEL = np.zeros((1, 1, 3), np.uint8)
WAIT = 60
"""Seconds after which something that another thread does has failed."""


def job(seed: int, guidance: float = 0.0) -> Job:
    return Job(seed=seed, label=0, sampling=SamplingConfig(guidance=guidance))


class Recorder:
    """Runs jobs in three stages, remembering the groups; waits at the gate before the first."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.stages = 0
        self.gate = threading.Event()
        self.begun = threading.Event()

    def __call__(self, jobs: Sequence[Job], wanted: Callable[[int], bool]) -> Iterator[list[Stage | None]]:
        self.groups.append([one.seed for one in jobs])
        self.begun.set()
        assert self.gate.wait(WAIT)
        for scale in range(3):
            self.stages += 1
            yield [Stage(scale, PIXEL, scale == 2, one.seed, len(jobs)) for one in jobs]
            if not any(wanted(row) for row in range(len(jobs))):
                return


async def alone(batcher: Batcher, run: Recorder, one: Job) -> asyncio.Task[list[int | None]]:
    """A job that is worked on, in front of the gate: what comes now waits."""
    task = asyncio.create_task(collect(batcher, one))
    assert await asyncio.to_thread(run.begun.wait, WAIT)
    return task


async def queued(batcher: Batcher, *jobs: Job) -> list[asyncio.Task[list[int | None]]]:
    """Jobs that are in the queue."""
    tasks = [asyncio.create_task(collect(batcher, one)) for one in jobs]
    all_began = asyncio.Event()
    asyncio.get_running_loop().call_soon(all_began.set)  # after the first step of each
    await all_began.wait()
    assert len(batcher.waiting) == len(jobs)
    return tasks


async def collect(batcher: Batcher, one: Job) -> list[int | None]:
    return [stage.label async for stage in batcher.stream(one)]


def test_those_that_wait_go_together_by_key_oldest_first() -> None:
    run = Recorder()

    async def scenario() -> list[list[int | None]]:
        batcher = Batcher(run, most=3)
        first = await alone(batcher, run, job(0))
        others = await queued(batcher, *(job(seed, seed % 2) for seed in range(1, 9)))
        run.gate.set()
        return await asyncio.gather(first, *others)

    results = asyncio.run(scenario())
    assert run.groups == [[0], [1, 3, 5], [2, 4, 6], [7], [8]]
    assert results == [[seed] * 3 for seed in range(9)]


def test_those_given_up_leave_the_queue_and_stop_the_work() -> None:
    run = Recorder()

    async def scenario() -> list[int | None]:
        batcher = Batcher(run, most=3)
        first = await alone(batcher, run, job(0))
        second, third = await queued(batcher, job(1), job(2))
        first.cancel()
        second.cancel()
        await asyncio.wait([first, second])
        run.gate.set()
        return await third

    assert asyncio.run(scenario()) == [2, 2, 2]
    assert run.groups == [[0], [2]]
    assert run.stages == 1 + 3, "the group that nobody waited for went on"


def test_errors_reach_every_job_of_the_group_and_the_next_goes_on() -> None:
    def run(jobs: Sequence[Job], wanted: Callable[[int], bool]) -> Iterator[list[Stage | None]]:
        if jobs[0].seed < 2:
            raise ValueError("bad luck")
        yield [Stage(0, PIXEL, True, one.seed, len(jobs)) for one in jobs]

    async def scenario() -> list[list[int | None] | BaseException]:
        batcher = Batcher(run, most=2)
        return await asyncio.gather(*(collect(batcher, job(seed)) for seed in range(4)), return_exceptions=True)

    results = asyncio.run(scenario())
    assert [str(one) for one in results[:2]] == ["bad luck", "bad luck"]
    assert results[2:] == [[2], [3]]


def test_a_group_that_ends_early_is_an_error_of_its_author() -> None:
    def run(jobs: Sequence[Job], wanted: Callable[[int], bool]) -> Iterator[list[Stage | None]]:
        yield from ()

    async def scenario() -> None:
        await asyncio.wait_for(collect(Batcher(run, most=1), job(0)), WAIT)

    with pytest.raises(RuntimeError, match="ended without a result"):
        asyncio.run(scenario())
