"""The five families with thirty times the images of docs/families.md, in minutes on one GPU.

    sh benchmarks/gpu_families.sh OUT [--rehearse]

Data is rendered on the spot (gpu_frames.py). Tokenizers are trained by the recipe of
examples/procgen/train_families.sh, side by side, while the frames are made. Then all families train side by side for as
many steps as the time allows, the same for all, and are compared as `nextscale compare` does, at the end and, for
next-scale prediction and raster order, at a quarter, a half and three quarters of the training. Everything continues
where it was stopped, in the folder `--work`; OUT holds what is to be brought back.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cyclopts

from gpu_frames import arrays, has_procgen, pictures, submit
from gpu_runs import ROOT, Clock, Run, all_of, finish, fitting_steps, nextscale, random_features, require, start
from nextscale.config import read_json, read_json_lines
from nextscale.files import write_json

HERE = Path(__file__).parent
CODERS = {
    "growing": ("1,2,3,4,5,6,8", 2.2e-3, "0.25"),
    "single": ("8", 4e-4, "1"),
    "equal": ("8,8,8,8", 2.2e-3, "0.25"),
}
"""Scales, learning rate (at a batch of 16, per 256) and weight of the commitment of each tokenizer."""
FAMILIES = {
    "var": ("growing", 8.5e-3, ("--depth", "5")),
    "raster": ("single", 8.5e-3, ("--depth", "5")),
    "rq": ("equal", 8.5e-3, ("--depth", "4", "--heads", "5", "--depth-blocks", "1")),
    "maskgit": ("single", 8.5e-3, ("--depth", "5")),
    "dit": ("growing", 2.8e-3, ("--depth", "5")),
}
"""Tokenizer, learning rate (at a batch of 16, per 256) and size of each family."""
FOLLOWED = ("var", "raster")
COMPARISON = 110
"""Seconds kept for the comparison."""
BEFORE = 64_000
"""Images of the trainings in docs/families.md."""


@dataclass
class Plan:
    """Sizes of one call."""

    out: Path
    work: Path
    clock: Clock
    device: str
    rehearse: bool
    weights: Path
    procgen: bool = field(default_factory=has_procgen)

    @property
    def log(self) -> Path:
        return self.out / "commands.txt"

    @property
    def batch(self) -> int:
        return 8 if self.rehearse else 256

    @property
    def per_class(self) -> int:
        """Frames of each class, of which no image is seen twice."""
        return 16 if self.rehearse else 122_880

    @property
    def pictures(self) -> tuple[int, int]:
        """Images of each class that tokenizers train on, and held-out ones."""
        return (8, 8) if self.rehearse else (1024, 640)

    @property
    def coding(self) -> tuple[int, int]:
        """Steps and batch of the tokenizers."""
        return (2, 4) if self.rehearse else (1000, 16)

    @property
    def kinds(self) -> tuple[str, ...]:
        return FOLLOWED if self.rehearse else tuple(FAMILIES)


def main(
    out: Path,
    *,
    seconds: float = 540,
    rehearse: bool = False,
    device: str = "",
    work: Annotated[Path, cyclopts.Parameter(help="Folder for data and runs.")] = ROOT / "build" / "gpu-families",
    weights: Annotated[Path, cyclopts.Parameter(help="torchvision's MobileNetV2.")] = Path(".gpu/mobilenet_v2.pth"),
) -> None:
    """Render, train and compare within so many seconds."""
    out.mkdir(parents=True, exist_ok=True)
    where = device or ("cpu" if rehearse else "cuda")
    plan = Plan(out.resolve(), work.resolve(), Clock(seconds), where, rehearse, weights.resolve())
    if rehearse:
        plan.procgen, plan.weights = False, random_features(plan.work)
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 2)) as pool:
        all_of(submit(pool, small_data(plan)))
        plan.clock.say("small data")
        frames = submit(pool, arrays(plan.work / "frames", plan.per_class, side=64, procgen=plan.procgen))
        train_tokenizers(plan)
        plan.clock.say("tokenizers")
        all_of(frames)
        plan.clock.say("frames")
    tokenise(plan)
    plan.clock.say("tokens")
    steps = train_families(plan)
    plan.clock.say("families")
    failed = compare(plan, steps)
    plan.clock.say("comparison")
    require(failed, plan.log)


def small_data(plan: Plan) -> list[Any]:
    """What tokenizers train on, and held-out frames, as pictures."""
    train, heldout = plan.pictures
    made = pictures(plan.work / "data" / "train", train, side=64, procgen=plan.procgen, heldout=False)
    return made + pictures(plan.work / "data" / "heldout", heldout, side=64, procgen=plan.procgen, heldout=True)


def coders(plan: Plan) -> dict[str, Run]:
    """The trainings of the tokenizers that are needed."""
    found, data, (_, batch) = {}, plan.work / "data", plan.coding
    for name in dict.fromkeys(FAMILIES[kind][0] for kind in plan.kinds):
        scales, rate, beta = CODERS[name]
        arguments = (
            "tokenizer", "--init-from", "demo", "--init-scales", scales, "--data", str(data / "train"),
            "--heldout", str(data / "heldout"), "--batch-size", str(batch), "--learning-rate", scaled(rate, batch),
            "--beta", beta,
            "--l1", "1", "--l2", "4", "--perceptual", "0.4", "--perceptual-shift", "4",
            "--perceptual-weights", str(plan.weights), "--seed", "3", "--export", "bf16", "--device", plan.device,
        )  # fmt: skip
        found[name] = Run(arguments, plan.work / "tokenizers" / name, plan.log)
    return found


def train_tokenizers(plan: Plan) -> None:
    """All side by side."""
    require(finish([run.start(plan.coding[0]) for run in coders(plan).values()], plan.clock), plan.log)


def tokenise(plan: Plan) -> None:
    """Token caches of all frames, and of the held-out ones."""
    waiting = []
    for name, run in coders(plan).items():
        tokens, device = plan.work / "tokens" / name, ("--device", plan.device)
        frames = [run.out, plan.work / "frames", tokens / "train", *device]
        waiting.append(start([sys.executable, HERE / "gpu_tokens.py", *frames], plan.log))
        heldout = ["--data", plan.work / "data" / "heldout", "--out", tokens / "heldout", "--resume", *device]
        waiting.append(nextscale("tokenize", "--tokenizer", run.out, *heldout, log=plan.log))
    require(finish(waiting, plan.clock), plan.log)


def scaled(rate: float, batch: int) -> str:
    """A rate per 256 images that was found at a batch of 16, at another: as is usual for Adam, what a step takes grows
    with the square root of the batch."""
    return f"{rate * (16 / batch) ** 0.5:.3g}"


def trainings(plan: Plan) -> dict[str, Run]:
    """Those of the families."""
    found = {}
    for kind in plan.kinds:
        coder, rate, size = FAMILIES[kind]
        tokens = plan.work / "tokens" / coder
        arguments = (
            kind, "--preset", "small", *size, "--tokenizer", str(plan.work / "tokenizers" / coder),
            "--data", str(tokens / "train"), "--heldout", str(tokens / "heldout"), "--batch-size", str(plan.batch),
            "--learning-rate", scaled(rate, plan.batch), "--ema", "0.9995", "--final", "0.02",
            "--flat", "0.1", "--top-k", "0", "--top-p", "0.95", "--device", plan.device,
        )  # fmt: skip
        found[kind] = Run(arguments, plan.work / "families" / kind, plan.log, measurements=1 if plan.rehearse else 4)
    return found


def train_families(plan: Plan) -> int:
    """Train all side by side, with the models of `FOLLOWED` kept on the way; returns their steps."""
    runs, noted = trainings(plan), plan.work / "steps"
    if not noted.exists():
        steps = 8 if plan.rehearse else fitting_steps(list(runs.values()), plan.clock, reserve=COMPARISON, probe=200)
        noted.write_text(str(min(steps, plan.per_class * 16 // plan.batch)))
    steps = int(noted.read_text())
    waiting = [run.start(steps) for run in runs.values()]
    while any(process.poll() is None for process in waiting) and plan.clock.left() > COMPARISON / 2:
        keep_models(plan, runs)
        time.sleep(0.5)
    for failure in finish(waiting, plan.clock, reserve=COMPARISON / 2):
        print(failure, flush=True)
    return steps


def keep_models(plan: Plan, runs: dict[str, Run]) -> None:
    """Copies of what `FOLLOWED` export on the way, as KIND-IMAGES."""
    for kind in FOLLOWED:
        about = runs[kind].out / "model" / "config.json"
        steps = read_json(about)["trained_steps"] if about.exists() else 0
        kept = plan.work / "kept" / f"{kind}-{steps * plan.batch}"
        if steps and not kept.exists():
            shutil.copytree(about.parent, kept)


def compare(plan: Plan, steps: int) -> list[str]:
    """The models at the end, then those kept on the way; curves of the held-out loss. Returns what failed."""
    runs, images = trainings(plan), steps * plan.batch
    about = {"steps": steps, "batch": plan.batch, "images": images, "times those of docs/families.md": images / BEFORE}
    about |= {"data": "Procgen" if plan.procgen else "shapes", "seconds": plan.clock.passed()}
    write_json(plan.out / "about.json", about)
    write_curves(plan, runs)
    models = [run.out for run in runs.values() if (run.out / "model").exists()]
    if "dit" in runs and runs["dit"].out in models:
        models[-1] = runs["dit"].out.with_name("dit-50")
        if not models[-1].exists():
            fewer = ["--steps", "50", "--out", models[-1], "--export", "bf16"]
            require(finish([nextscale("convert", runs["dit"].out, *fewer, log=plan.log)], plan.clock), plan.log)
    failed = compared(plan, models, "families", guidances="0,1,2,3,4", sets=3, rounds=3)
    picture = plan.work / "compare-families" / "samples.png"
    if picture.exists():
        shutil.copy(picture, plan.out / "samples.png")
    kept = sorted((plan.work / "kept").glob("*-*"))
    if kept and not plan.rehearse:
        failed += compared(plan, kept, "on-the-way", guidances="1,3", sets=1, rounds=1)
    return failed


def compared(plan: Plan, models: list[Path], name: str, *, guidances: str, sets: int, rounds: int) -> list[str]:
    """`nextscale compare` of some models, in what time is left."""
    count, tuning, batch = ("2000", "500", "250")
    if plan.rehearse:
        count, tuning, batch, guidances, sets, rounds = "8", "8", "8", "0,1", 1, 1
    arguments = [
        "--data", plan.work / "data" / "heldout", "--features", "mobilenet_v2", "--feature-weights", plan.weights,
        "--count", count, "--sets", str(sets), "--guidances", guidances, "--rounds", str(rounds),
        "--tuning-count", tuning, "--precision", "fp32" if plan.rehearse else "bf16", "--device", plan.device,
        "--batch-size", batch, "--out", plan.work / f"compare-{name}", "--json", plan.out / f"{name}.json",
    ]  # fmt: skip
    return finish([nextscale("compare", *models, *arguments, log=plan.log)], plan.clock)


def write_curves(plan: Plan, runs: dict[str, Run]) -> None:
    """Held-out loss over images, one row for each measurement of each family."""
    with (plan.out / "curves.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["family", "images", "heldout_loss", "images_per_second"])
        for kind, run in runs.items():
            speed = ""
            for line in read_json_lines(run.out / "metrics.jsonl"):
                speed = line.get("images_per_second", speed)
                if "heldout_loss" in line:
                    rows.writerow([kind, line["step"] * plan.batch, line["heldout_loss"], speed])


if __name__ == "__main__":
    cyclopts.run(main)
