"""Trainings through the command line that fit a given time: a short run tells the rate, which tells the steps."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gpu_models import Setup
from gpu_pictures import SHAPES, picture
from gpu_runner import Note
from nextscale.config import read_json_lines

ROOT = Path(__file__).parents[1]
PROCGEN = ROOT / "examples" / "procgen" / "build.py"


def nextscale(*arguments: str | Path, seconds: float, log: Path) -> None:
    """Run a command; its output goes to the log. Raises RuntimeError with the last lines where it fails."""
    command = [sys.executable, "-m", "nextscale", *map(str, arguments)]
    run(command, seconds=seconds, log=log)


def run(command: list[str], *, seconds: float, log: Path) -> None:
    """Run a program for so long at most. Raises RuntimeError."""
    with log.open("a") as file:
        file.write(f"\n$ {' '.join(command)}\n")
        file.flush()
        try:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=max(1.0, seconds), cwd=ROOT)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"ended after {seconds:.0f} s: {' '.join(command[:6])}") from error
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {' '.join(command[:6])}\n{log.read_text()[-1500:]}")


@dataclass(frozen=True)
class Run:
    """A training: arguments of `nextscale train` without steps and folder."""

    arguments: tuple[str, ...]
    out: Path
    log: Path

    def train(self, steps: int, *, out: Path | None = None, seconds: float = 3600) -> None:
        """Train for so many steps, or continue."""
        every = ["--sample-every", str(steps), "--checkpoint-every", str(max(1, steps // 2))]
        every += ["--log-every", str(max(1, min(50, steps // 4)))]
        arguments = [*self.arguments, "--steps", str(steps), *every, "--out", str(out or self.out), "--resume"]
        nextscale("train", *arguments, seconds=seconds, log=self.log)

    def rate(self, probe: int, seconds: float) -> tuple[float, float]:
        """Steps a second, and seconds that a run takes beside its steps, from a run of `probe` steps."""
        folder = self.out.with_name(f"{self.out.name}-probe")
        shutil.rmtree(folder, ignore_errors=True)
        began = time.monotonic()
        self.train(probe, out=folder, seconds=seconds)
        took = time.monotonic() - began
        batch = int(self.arguments[self.arguments.index("--batch-size") + 1])
        speeds = [line["images_per_second"] for line in read_json_lines(folder / "metrics.jsonl")
                  if "images_per_second" in line]  # fmt: skip
        shutil.rmtree(folder)
        rate = max(speeds) / batch
        return rate, max(0.0, took - probe / rate)


def fitting_steps(run: Run, seconds: float, *, probe: int) -> int:
    """Steps that fit into so many seconds, the short run that tells their rate included."""
    began = time.monotonic()
    rate, beside = run.rate(probe, seconds)
    left = seconds - (time.monotonic() - began) - beside
    return max(probe, int(0.9 * rate * left))


def make_pictures(out: Path, per_class: int, heldout_per_class: int) -> None:
    """Folders `train` and `heldout` of shapes, a folder for each class."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        for split, count, first in (("heldout", heldout_per_class, 10**6), ("train", per_class, 0)):
            if not (out / split).exists():
                partial = out / f".{split}"
                list(pool.map(write_class, [partial] * len(SHAPES), range(len(SHAPES)),
                              [range(first, first + count)] * len(SHAPES)))  # fmt: skip
                partial.rename(out / split)


def write_class(folder: Path, label: int, numbers: range) -> None:
    (folder / SHAPES[label]).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(label, number).save(folder / SHAPES[label] / f"{number:07d}.png", compress_level=1)


def make_data(setup: Setup, out: Path, log: Path, *, seconds: float) -> str:
    """Procgen where its renderer is installed, else (and in a rehearsal) shapes; returns which."""
    per_class = 20 if setup.rehearse else 2000
    if setup.rehearse or not all(importlib.util.find_spec(name) for name in ("procgen", "gym3")):
        make_pictures(out, per_class, max(4, per_class // 16))
        return "shapes"
    sizes = ["--per-class", str(per_class), "--heldout-per-class", str(per_class // 16)]
    command = [sys.executable, str(PROCGEN), "--out", str(out), *sizes, "--processes", str(os.cpu_count() or 1)]
    run(command, seconds=seconds, log=log)
    return "Procgen"


def small_run(setup: Setup, note: Note) -> None:
    """Both stages on small images through the command line, then 16 samples."""
    folder, log = setup.work / "run", setup.out / "run.txt"
    device = ("--device", setup.device.type)
    began = time.monotonic()
    data = folder / "data"
    note("data", make_data(setup, data, log, seconds=60))
    note("data_seconds", time.monotonic() - began)
    batch, probe = ("4", 2) if setup.rehearse else ("128", 60)
    shared = ("--data", str(data / "train"), "--heldout", str(data / "heldout"), "--batch-size", batch)
    shape = ("--scales", "1,2,3,4,5,6,8", "--codebook-size", "1024")
    losses = ("--learning-rate", "1.6e-3", "--l1", "1", "--l2", "4")
    if setup.rehearse:
        shape = ("--scales", "1,2,3,4", "--codebook-size", "64", "--channels", "16")
    coder = Run(("tokenizer", "--preset", "small-64", *shared, *shape, *losses, *device), folder / "tokenizer", log)
    steps = probe if setup.rehearse else fitting_steps(coder, 0.45 * setup.left(), probe=probe)
    coder.train(steps, seconds=setup.left())
    note("tokenizer", {"steps": steps, "batch": int(batch), **last_figures(coder.out)})
    for split in ("train", "heldout"):
        where = ("--data", str(data / split), "--out", str(folder / "tokens" / split), "--resume")
        nextscale("tokenize", "--tokenizer", coder.out, *where, *device, seconds=setup.left(), log=log)
    tokens = ("--data", str(folder / "tokens" / "train"), "--heldout", str(folder / "tokens" / "heldout"))
    preset = "tiny" if setup.rehearse else "small"
    sampling = ("--guidance", "2", "--top-k", "0", "--top-p", "0.95", "--learning-rate", "2.4e-3", "--ema", "0.999")
    command = ("var", "--preset", preset, "--tokenizer", str(coder.out), *tokens, "--batch-size", batch, *sampling)
    model = Run((*command, *device), folder / "var", log)
    steps = probe if setup.rehearse else fitting_steps(model, setup.left() - 20, probe=probe)
    model.train(steps, seconds=setup.left())
    note("transformer", {"steps": steps, "batch": int(batch), **last_figures(model.out)})
    samples = sorted((model.out / "samples").glob("*.png"))
    shutil.copy(samples[-1], setup.out / "samples.png")


def last_figures(run: Path) -> dict[str, float]:
    """The last single numbers that a run recorded."""
    found: dict[str, float] = {}
    for line in read_json_lines(run / "metrics.jsonl"):
        found |= {name: value for name, value in line.items() if isinstance(value, int | float)}
    return found
