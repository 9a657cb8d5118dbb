"""Trainings through the command line, side by side and within a given time: a short run tells how many steps fit."""

from __future__ import annotations

import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch

from nextscale.config import read_json_lines

ROOT = Path(__file__).parents[1]
PATIENCE = 20
"""Seconds that a training which is asked to stop has to write its checkpoint."""


class Clock:
    """How much is left of the time that a script has."""

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.monotonic(), seconds

    def passed(self) -> float:
        return time.monotonic() - self.began

    def left(self) -> float:
        return self.seconds - self.passed()

    def say(self, what: str) -> None:
        print(f"{self.passed():5.0f} s: {what}", flush=True)


def start(arguments: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
    """Start a program in the checkout's root; its output goes to the end of the log."""
    command = list(map(str, arguments))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"\n$ {' '.join(command)}\n")
        file.flush()
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)


def nextscale(*arguments: str | Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a command of nextscale."""
    return start([sys.executable, "-m", "nextscale", *arguments], log)


def finish(processes: Iterable[subprocess.Popen[bytes]], clock: Clock, *, reserve: float = 0.0) -> list[str]:
    """Wait for all until `reserve` seconds are left; the late ones are asked to stop. Returns which of them failed."""
    processes, failed = list(processes), []
    for process in processes:
        try:
            process.wait(max(0.1, clock.left() - reserve))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
        if process.wait():
            failed.append(f"status {process.returncode}: {' '.join(map(str, process.args))}"[:300])  # type: ignore
    return failed


def require(failed: list[str], log: Path) -> None:
    """Raises SystemExit with the end of the log where something failed."""
    if failed:
        raise SystemExit("\n".join([*failed, log.read_text(errors="replace")[-3000:]]))


def all_of(waiting: Iterable[Future[None]]) -> None:
    """Wait for all of a pool's work; raises what one of them raised."""
    for future in waiting:
        future.result()


@dataclass(frozen=True)
class Run:
    """A training: arguments of `nextscale train` without steps and folder."""

    arguments: tuple[str, ...]
    out: Path
    log: Path
    measurements: int = 1

    @property
    def probe(self) -> Path:
        """The folder of a short run."""
        return self.out.with_name(f"{self.out.name}-probe")

    @property
    def batch(self) -> int:
        return int(self.arguments[self.arguments.index("--batch-size") + 1])

    def start(self, steps: int, *, out: Path | None = None) -> subprocess.Popen[bytes]:
        """Train for so many steps, or continue to them."""
        every = {"sample": steps // self.measurements, "checkpoint": steps // 2, "log": min(50, steps // 4)}
        flags = [flag for name, count in every.items() for flag in (f"--{name}-every", str(max(1, count)))]
        arguments = [*self.arguments, "--steps", str(steps), *flags, "--out", str(out or self.out), "--resume"]
        return nextscale("train", *arguments, log=self.log)

    def rate(self, folder: Path) -> float:
        """Steps a second of a run that is over, its first lines aside: a median."""
        lines = read_json_lines(folder / "metrics.jsonl")
        speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
        return statistics.median(speeds[1:] or speeds) / self.batch


def fitting_steps(runs: Sequence[Run], clock: Clock, *, reserve: float, probe: int) -> int:
    """Steps that all of these runs can take side by side until `reserve` seconds are left, by a short run of all."""
    began = clock.passed()
    require(finish([run.start(probe, out=run.probe) for run in runs], clock), runs[0].log)
    rates = [run.rate(run.probe) for run in runs]
    beside = max(0.0, clock.passed() - began - probe / min(rates))
    for run in runs:
        shutil.rmtree(run.probe)
    print("steps a second: " + ", ".join(f"{run.out.name} {rate:.1f}" for run, rate in zip(runs, rates, strict=True)))
    return max(probe, int(0.9 * min(rates) * (clock.left() - reserve - beside)))


def random_features(folder: Path) -> Path:
    """A file of random weights of MobileNetV2, for rehearsals."""
    from torchvision.models import mobilenet_v2

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mobilenet_v2.pth"
    if not path.exists():
        torch.manual_seed(0)
        torch.save(mobilenet_v2(weights=None).state_dict(), path)
    return path
