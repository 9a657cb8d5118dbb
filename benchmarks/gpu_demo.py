"""A demo model of 128 x 128 frames of Procgen's sixteen games, in minutes on one GPU.

    sh benchmarks/gpu_demo.sh OUT [--rehearse]

Pictures for the tokenizer are rendered first; it trains while all other frames are made (gpu_frames.py), then the
transformer on their tokens, each for as many steps as fit. Everything continues where it was stopped, in the folder
`--work`. OUT holds what is to be brought back: samples.png (16 images), about.json with the metrics of both trainings,
evaluation.json, and the model in bf16 in parts below 16 MiB, which `cat model.tar.part-* | tar x` puts together.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cyclopts

from gpu_frames import arrays, has_procgen, pictures, submit
from gpu_runs import ROOT, Clock, Run, all_of, finish, fitting_steps, nextscale, random_features, require
from gpu_tokens import main as write_tokens
from nextscale.config import read_json_lines
from nextscale.files import write_json

PART = 15 * 2**20
"""Bytes of a part of the model."""
TOKENIZER_SHARE = 0.35
"""Of the time after the first pictures, what the tokenizer gets."""
EVALUATION = 45
"""Seconds kept for samples and evaluation."""


@dataclass(frozen=True)
class Plan:
    """Sizes of one call."""

    out: Path
    work: Path
    clock: Clock
    device: str
    rehearse: bool
    weights: Path
    procgen: bool

    @property
    def log(self) -> Path:
        return self.out / "commands.txt"

    @property
    def side(self) -> int:
        return 64 if self.rehearse else 128


def main(
    out: Path,
    *,
    seconds: float = 540,
    rehearse: bool = False,
    device: str = "",
    work: Annotated[Path, cyclopts.Parameter(help="Folder for data and runs.")] = ROOT / "build" / "gpu-demo",
    weights: Annotated[Path, cyclopts.Parameter(help="torchvision's MobileNetV2.")] = Path(".gpu/mobilenet_v2.pth"),
) -> None:
    """Render, train both stages, draw and measure within so many seconds."""
    out.mkdir(parents=True, exist_ok=True)
    features = random_features(work.resolve()) if rehearse else weights.resolve()
    where, procgen = device or ("cpu" if rehearse else "cuda"), has_procgen() and not rehearse
    plan = Plan(out.resolve(), work.resolve(), Clock(seconds), where, rehearse, features, procgen)
    train, heldout, more = (8, 8, 16) if rehearse else (2048, 320, 16_384)
    data, shared = plan.work / "data", {"side": plan.side, "procgen": plan.procgen}
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 2)) as pool:
        made = pictures(data / "train", train, heldout=False, **shared)
        all_of(submit(pool, made + pictures(data / "heldout", heldout, heldout=True, **shared)))
        plan.clock.say("pictures")
        frames = submit(pool, arrays(plan.work / "frames", more, chunk=1024, **shared))
        coder = train_fitting(plan, tokenizer_run(plan), reserve=(1 - TOKENIZER_SHARE) * plan.clock.left())
        all_of(frames)
    plan.clock.say("tokenizer and frames")
    tokens = plan.work / "tokens"
    held = ["--data", data / "heldout", "--out", tokens / "heldout", "--resume", "--device", plan.device]
    waiting = nextscale("tokenize", "--tokenizer", coder.out, *held, log=plan.log)
    write_tokens(coder.out, plan.work / "frames", tokens / "train", device=plan.device)
    require(finish([waiting], plan.clock), plan.log)
    plan.clock.say("tokens")
    model = train_fitting(plan, transformer_run(plan, coder), reserve=EVALUATION)
    plan.clock.say("transformer")
    bring(plan, coder, model)
    evaluate(plan, model)
    plan.clock.say("evaluation")


def train_fitting(plan: Plan, run: Run, *, reserve: float) -> Run:
    """Train until `reserve` seconds are left; how many steps that are is noted, to be continued to."""
    noted = run.out.with_name(f"{run.out.name}-steps")
    if not noted.exists():
        steps = 2 if plan.rehearse else fitting_steps([run], plan.clock, reserve=reserve, probe=60)
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.write_text(str(steps))
    require(finish([run.start(int(noted.read_text()))], plan.clock), plan.log)
    return run


def tokenizer_run(plan: Plan) -> Run:
    """The recipe of examples/procgen/train_demo.sh; the rate grows with the square root of the batch."""
    sizes = ("--preset", "small-128", "--codebook-size", "1024", "--batch-size", "64")
    if plan.rehearse:
        sizes = ("--preset", "small-64", "--channels", "16", "--codebook-size", "64", "--batch-size", "4")
    data = plan.work / "data"
    arguments = (
        "tokenizer", *sizes, "--data", str(data / "train"), "--heldout", str(data / "heldout"),
        "--l1", "1", "--l2", "4", "--learning-rate", "2.3e-3", "--perceptual", "0.2", "--perceptual-shift", "4",
        "--perceptual-weights", str(plan.weights), "--export", "bf16", "--device", plan.device,
    )  # fmt: skip
    return Run(arguments, plan.work / "tokenizer", plan.log)


def transformer_run(plan: Plan, coder: Run) -> Run:
    """Depth 6, 17 million parameters; the demo's recipe at a larger batch."""
    sizes = ("--preset", "tiny", "--batch-size", "4")
    if not plan.rehearse:
        sizes = ("--preset", "small", "--depth", "6", "--batch-size", "256")
    tokens = plan.work / "tokens"
    arguments = (
        "var", *sizes, "--tokenizer", str(coder.out), "--data", str(tokens / "train"),
        "--heldout", str(tokens / "heldout"), "--learning-rate", "2.3e-3", "--ema", "0.9995", "--final", "0.02",
        "--flat", "0.1", "--guidance", "3", "--top-k", "0", "--top-p", "0.95", "--export", "bf16",
        "--device", plan.device,
    )  # fmt: skip
    return Run(arguments, plan.work / "var", plan.log)


def bring(plan: Plan, coder: Run, model: Run) -> None:
    """What is to be brought back of both trainings."""
    shutil.copy(max((model.out / "samples").glob("*.png")), plan.out / "samples.png")
    for part in plan.out.glob("model.tar.part-*"):
        part.unlink()
    packed = plan.work / "model.tar"
    with tarfile.open(packed, "w") as file:
        file.add(model.out / "model", "model")
    content = packed.read_bytes()
    for number in range(0, len(content), PART):
        (plan.out / f"model.tar.part-{number // PART}").write_bytes(content[number : number + PART])
    metrics = {run.out.name: list(read_json_lines(run.out / "metrics.jsonl")) for run in (coder, model)}
    write_json(plan.out / "about.json", {"data": "Procgen" if plan.procgen else "shapes", **metrics})


def evaluate(plan: Plan, model: Run) -> None:
    """Frechet distance of some thousand images, where there is time."""
    count = "8" if plan.rehearse else "2000"
    arguments = [
        "--model", model.out, "--data", plan.work / "data" / "heldout", "--features", "mobilenet_v2",
        "--feature-weights", plan.weights, "--count", count, "--batch-size", "8" if plan.rehearse else "250",
        "--device", plan.device, "--out", plan.work / "evaluation",
    ]  # fmt: skip
    failed = finish([nextscale("evaluate", "generation", *arguments, log=plan.log)], plan.clock)
    for failure in failed:
        print(failure, flush=True)
    report = plan.work / "evaluation" / "report.json"
    if report.exists():
        shutil.copy(report, plan.out / "evaluation.json")


if __name__ == "__main__":
    cyclopts.run(main)
