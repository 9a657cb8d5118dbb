"""A real training, small: both stages on small images through the command line, then 16 samples."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from gpu_frames import has_procgen, pictures, submit
from gpu_models import Setup
from gpu_runner import Note
from gpu_runs import Clock, Run, all_of, finish, fitting_steps, nextscale, require
from nextscale.config import read_json_lines


def small_run(setup: Setup, note: Note) -> None:
    """Procgen where its renderer is installed, else shapes; as many steps as fit."""
    folder, log, clock = setup.work / "run", setup.work / "run.txt", Clock(setup.left() - 5)
    procgen, per_class = has_procgen() and not setup.rehearse, 16 if setup.rehearse else 1024
    data = folder / "data"
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        chunks = pictures(data / "train", per_class, side=64, procgen=procgen, heldout=False)
        all_of(submit(pool, chunks + pictures(data / "heldout", 32, side=64, procgen=procgen, heldout=True)))
    note("data", {"kind": "Procgen" if procgen else "shapes", "seconds": clock.passed()})

    coder = Run(tokenizer_arguments(setup, data), folder / "tokenizer", log)
    steps = 2 if setup.rehearse else fitting_steps([coder], clock, reserve=0.55 * clock.left(), probe=60)
    require(finish([coder.start(steps)], clock), log)
    note("tokenizer", {"steps": steps, "batch": coder.batch, **last_figures(coder.out)})
    waiting = []
    for split in ("train", "heldout"):
        where = ["--data", data / split, "--out", folder / "tokens" / split, "--device", setup.device.type]
        waiting.append(nextscale("tokenize", "--tokenizer", coder.out, *where, log=log))
    require(finish(waiting, clock), log)

    model = Run(transformer_arguments(setup, folder), folder / "var", log)
    steps = 2 if setup.rehearse else fitting_steps([model], clock, reserve=8, probe=60)
    require(finish([model.start(steps)], clock), log)
    note("transformer", {"steps": steps, "batch": model.batch, **last_figures(model.out)})
    shutil.copy(max((model.out / "samples").glob("*.png")), setup.out / "samples.png")


def tokenizer_arguments(setup: Setup, data: Path) -> tuple[str, ...]:
    sizes = ("--scales", "1,2,3,4,5,6,8", "--codebook-size", "1024", "--batch-size", "128")
    if setup.rehearse:
        sizes = ("--scales", "1,2,3,4", "--codebook-size", "64", "--channels", "16", "--batch-size", "4")
    return (
        "tokenizer", "--preset", "small-64", *sizes, "--data", str(data / "train"), "--heldout", str(data / "heldout"),
        "--learning-rate", "1.6e-3", "--l1", "1", "--l2", "4", "--device", setup.device.type,
    )  # fmt: skip


def transformer_arguments(setup: Setup, folder: Path) -> tuple[str, ...]:
    preset, batch = ("tiny", "4") if setup.rehearse else ("small", "128")
    tokens = folder / "tokens"
    return (
        "var", "--preset", preset, "--tokenizer", str(folder / "tokenizer"), "--data", str(tokens / "train"),
        "--heldout", str(tokens / "heldout"), "--batch-size", batch, "--learning-rate", "2.4e-3", "--ema", "0.999",
        "--guidance", "2", "--top-k", "0", "--top-p", "0.95", "--device", setup.device.type,
    )  # fmt: skip


def last_figures(run: Path) -> dict[str, float]:
    """The last single numbers that a run recorded."""
    found: dict[str, float] = {}
    for line in read_json_lines(run / "metrics.jsonl"):
        found |= {name: value for name, value in line.items() if isinstance(value, int | float)}
    return found
