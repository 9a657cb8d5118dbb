"""Trainings that are killed, cut off and run out of disk, against trainings that are left alone.

    python tests/stress/interruptions.py

Both stages train on generated pictures, once undisturbed, and once killed (SIGKILL) at random moments and started
again with --resume: weights must be equal bit for bit. Then the newest checkpoint is truncated, and the run must go on
from the one before; and a run whose files may not grow (a full disk) must stop in one line and leave a checkpoint that
it can continue from.
"""

from __future__ import annotations

import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
from PIL import Image
from rich.table import Table
from safetensors.numpy import load_file

from nextscale.cli.tables import print_table

TOKENIZER = ("train", "tokenizer", "--preset", "tiny-16", "--heldout-images", "16")
TRANSFORMER = ("train", "var", "--preset", "tiny", "--heads", "1")
COMMON = ("--batch-size", "16", "--precision", "fp32", "--checkpoint-every", "5", "--sample-every", "100000")


def main(
    *,
    kills: Annotated[int, cyclopts.Parameter(help="Times that each stage is killed.")] = 20,
    steps: int = 1500,
    longest: Annotated[float, cyclopts.Parameter(help="Seconds that a life lasts at most.")] = 9.0,
    seed: int = 0,
) -> None:
    """Train, kill, continue, compare; exit status 1 when anything differs."""
    rng = random.Random(seed)
    table = Table("stage", "what happened", "outcome")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = pictures(place / "data")
        stages = {
            "1": (*TOKENIZER, "--data", str(data), "--steps", str(steps), *COMMON),
            "2": (*TRANSFORMER, "--data", str(data), "--steps", str(steps), *COMMON),
        }
        for stage, command in stages.items():
            if stage == "2":
                command = (*command, "--tokenizer", str(place / "plain-1"))
            plain, killed = place / f"plain-{stage}", place / f"killed-{stage}"
            run(command, plain)
            lives = killed_run(command, killed, kills, longest, rng)
            for what, done in (
                (f"killed {lives} times", killed),
                ("newest checkpoint truncated", truncated_run(command, place / f"truncated-{stage}", killed)),
                ("disk full, then not", full_run(command, place / f"full-{stage}")),
            ):
                equal = same_weights(plain, done)
                good = good and equal
                table.add_row(stage, what, "equal bit for bit" if equal else "DIFFERENT")
    print_table(table)
    if not good:
        raise SystemExit(1)


def pictures(folder: Path) -> Path:
    """Coloured squares on noise in two classes."""
    for index in range(64):
        generator = np.random.default_rng(index)
        pixels = generator.integers(0, 80, (16, 16, 3), dtype=np.uint8)
        top, left = generator.integers(0, 8, 2)
        pixels[top : top + 8, left : left + 8, index % 2] = 220
        path = folder / f"class{index % 2}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def start(command: tuple[str, ...], out: Path, **options: object) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "nextscale", *command, "--out", str(out), "--resume"]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


def run(command: tuple[str, ...], out: Path) -> None:
    """Train to the end."""
    process = start(command, out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]


def killed_run(command: tuple[str, ...], out: Path, kills: int, longest: float, rng: random.Random) -> int:
    """Kill at random moments, then train to the end; returns how often it was killed in the middle."""
    happened = 0
    for _ in range(kills):
        process = start(command, out)
        time.sleep(rng.uniform(0.5, longest))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            happened += 1
        process.communicate()
    run(command, out)
    return happened


def truncated_run(command: tuple[str, ...], out: Path, finished: Path) -> Path:
    """Continue a finished run's copy after its newest checkpoint lost half of its bytes."""
    shutil.copytree(finished, out)
    newest = sorted((out / "checkpoints").glob("step-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    process = start(command, out)
    _, errors = process.communicate()
    assert process.returncode == 0 and b"cannot be read" in errors, errors.decode()[-2000:]
    return out


def full_run(command: tuple[str, ...], out: Path) -> Path:
    """Train with files that may not grow beyond what a few steps need, then without the limit."""

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails instead, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(command, out, preexec_fn=small_files)
    _, errors = process.communicate()
    lines = [line for line in errors.decode().splitlines() if line.startswith("nextscale: ")]
    assert process.returncode == 2 and len(lines) == 1, errors.decode()[-2000:]
    run(command, out)
    return out


def same_weights(one: Path, other: Path) -> bool:
    """Whether both runs exported the same bits."""
    files = sorted(path.relative_to(one) for path in (one / "model").rglob("*.safetensors"))
    assert files
    for file in files:
        a, b = load_file(one / file), load_file(other / file)
        if set(a) != set(b) or any(not np.array_equal(a[name], b[name]) for name in a):
            return False
    return True


if __name__ == "__main__":
    cyclopts.run(main)
