"""What another busy process costs: 16 demo images alone and beside it.

    python benchmarks/busy.py

The other process multiplies matrices with as many threads as there are cores, in the many short parallel regions of a
training. `nextscale generate` lets threads that wait soon sleep; beside it the same command with threads that
spin, as torch's OpenMP does by default. Whole commands, imports included; rounds are interleaved, medians are shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import cyclopts
from rich.table import Table

from nextscale.cli.tables import print_table
from nextscale.environment import POLICIES
from nextscale.environment import WAITING as OURS
from nextscale.files import write_json
from nextscale.progress import Progress

SPINNING = {"GOMP_SPINCOUNT": "300000"}
"""What GNU's OpenMP does where nothing is said."""
WAITING: dict[str, dict[str, str]] = {"sleeping": {}, "spinning": SPINNING}
NEIGHBOUR = """
import torch
print("ready", flush=True)
layers = [torch.nn.Linear(256, 256) for _ in range(8)]
while True:
    x = torch.randn(512, 256)
    for layer in layers:
        x = torch.nn.functional.gelu(layer(x))
    x.sum().backward()
"""


class Neighbour(AbstractContextManager["Neighbour"]):
    """The other process, at work from entering on."""

    def __init__(self, waiting: str) -> None:
        self.environment = clean() | (OURS if waiting == "sleeping" else SPINNING)

    def __enter__(self) -> Neighbour:
        command = [sys.executable, "-c", NEIGHBOUR]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE)
        assert self.process.stdout is not None and self.process.stdout.readline()
        time.sleep(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()


def clean() -> dict[str, str]:
    """The environment without anything that says how threads wait."""
    return {k: v for k, v in os.environ.items() if k not in POLICIES}


def seconds(waiting: str, count: int, out: Path) -> float:
    """How long `nextscale generate` takes, from start to exit."""
    command = [sys.executable, "-m", "nextscale", "generate", "--count", str(count), "--out", str(out)]
    began = time.perf_counter()
    subprocess.run(command, env=clean() | WAITING[waiting], check=True, capture_output=True)
    return time.perf_counter() - began


def main(*, count: int = 16, rounds: int = 5, json: str = "") -> None:
    """Time the command alone and beside two kinds of neighbours."""
    neighbours: dict[str, Any] = {
        "alone": nullcontext,
        "beside a busy process that sleeps": lambda: Neighbour("sleeping"),
        "beside a busy process that spins": lambda: Neighbour("spinning"),
    }
    times: dict[str, dict[str, list[float]]] = {name: {waiting: [] for waiting in WAITING} for name in neighbours}
    progress = Progress(rounds * len(neighbours) * len(WAITING), title="commands", line_seconds=20)
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        seconds("sleeping", 1, Path(folder) / "warm")
        for _ in range(rounds):
            for name, neighbour in neighbours.items():
                for waiting in WAITING:
                    with neighbour():
                        times[name][waiting].append(seconds(waiting, count, Path(folder) / f"{done}"))
                    done += 1
                    progress.advance(done)
    progress.close()
    medians = {name: {waiting: median(taken) for waiting, taken in row.items()} for name, row in times.items()}
    table = Table("", "threads sleep, s", "times alone", "threads spin, s", title=f"{count} demo images")
    for name, row in medians.items():
        ratio = row["sleeping"] / medians["alone"]["sleeping"]
        table.add_row(name, f"{row['sleeping']:.2f}", f"{ratio:.2f}", f"{row['spinning']:.2f}")
    print_table(table)
    lost = medians["alone"]["sleeping"] / medians["alone"]["spinning"] - 1
    print(f"alone, sleeping costs {lost:+.1%}")
    if json:
        write_json(Path(json), {"count": count, "rounds": rounds, "seconds": medians, "all_seconds": times})


if __name__ == "__main__":
    cyclopts.run(main)
