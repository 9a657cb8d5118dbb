"""Stages of a measurement: each in a process of its own with a deadline, the results written as they come.

A process of its own, because what goes wrong on a GPU (an illegal access, a kernel that never ends) takes its process
along. Processes are forked, so that nothing is imported twice; the parent never touches the GPU.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nextscale.files import write_json

NO_TIME = "left out: no time"
Note = Callable[[str, Any], None]
"""Records one result of a stage at once, so that it outlives the stage's deadline."""


@dataclass(frozen=True)
class Stage:
    """A part of the measurement."""

    name: str
    run: Callable[..., None]
    "(setup, note): the setup is whatever the caller gives to `run_stages`."
    most: float
    "Seconds after which it is ended."
    least: float = 10.0
    "Seconds without which it is not begun."


class Report:
    """The results so far, in a file that is complete at any moment."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.values = path, about | {"stages": {}}
        self.write()

    @property
    def stages(self) -> dict[str, Any]:
        return self.values["stages"]

    def note(self, stage: str, name: str, value: Any) -> None:
        self.stages.setdefault(stage, {})[name] = value
        self.write()

    def write(self) -> None:
        write_json(self.path, self.values)


def run_stages(stages: Sequence[Stage], setup: Any, report: Report, budget: float) -> None:
    """Run all stages for which there is time, `budget` seconds together; whatever fails is recorded, none raises."""
    began = time.monotonic()
    for stage in stages:
        left = budget - (time.monotonic() - began)
        if left < stage.least:
            report.stages[stage.name] = {"left out": NO_TIME}
            report.write()
            print(f"{stage.name}: {NO_TIME}", flush=True)
            continue
        started = time.monotonic()
        run_stage(stage, setup, report, min(stage.most, left))
        report.note(stage.name, "seconds", round(time.monotonic() - started, 1))
        wrong = report.stages[stage.name].get("error", "")
        last = f": {wrong.strip().splitlines()[-1]}" if wrong else ""
        print(f"{stage.name}, {report.stages[stage.name]['seconds']} s{last}", flush=True)


def run_stage(stage: Stage, setup: Any, report: Report, seconds: float) -> None:
    """Run a stage in a process, and record its notes until it ends or its time is over."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(stage, setup, report.stages, seconds, there))
    process.start()
    there.close()
    deadline = time.monotonic() + seconds
    try:
        while here.poll(max(0.0, deadline - time.monotonic())):
            report.note(stage.name, *here.recv())
        report.note(stage.name, "error", f"ended after {seconds:.0f} s, its deadline")
    except EOFError:  # its end
        process.join(10)
        if process.exitcode:
            report.note(stage.name, "error", report.stages[stage.name].get("error", f"ended with {process.exitcode}"))
    finally:
        end(process.pid)
        process.join()
        here.close()


def work(stage: Stage, setup: Any, found: dict[str, Any], seconds: float, connection: Connection) -> None:
    """A stage's process, with all that it starts in a group of its own."""
    os.setpgid(0, 0)
    setup.begin(found, time.monotonic() + seconds)
    try:
        stage.run(setup, lambda name, value: connection.send((name, value)))
    except BaseException:
        connection.send(("error", traceback.format_exc()[-3000:]))
        raise SystemExit(1) from None


def end(group: int | None) -> None:
    """End a stage's process and all that it has started."""
    if group is not None:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
