"""What a GPU does: is it right, how fast, beside the authors' code on the same card.

    sh benchmarks/gpu_prepare.sh VAR                # on a machine with a network: wheels and the authors' code
    python benchmarks/gpu.py OUT --reference VAR    # on the GPU, seven minutes at most
    python benchmarks/gpu.py OUT --rehearse         # every stage on the CPU at toy size, two minutes

Writes OUT/gpu.json after every stage, and OUT/gpu.md, a table, at the end. Stages have deadlines of their own and
processes of their own; what does not fit the budget is said. docs/gpu.md says what was found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Annotated

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a parent that asks CUDA could not fork

import cyclopts
import torch

from gpu_checks import card, correctness, gpu_tests
from gpu_models import Setup
from gpu_report import table
from gpu_runner import Report, Stage, run_stages
from gpu_small_run import small_run
from gpu_speed import profile, speed, tokenizer
from gpu_training import loader, training

ROOT = Path(__file__).parents[1]
STAGES = (
    Stage("card", card, 30),
    Stage("tests", gpu_tests, 120, 20),
    Stage("correctness", correctness, 90, 30),
    Stage("speed d16", partial(speed, depth=16), 60, 20),
    Stage("speed d30", partial(speed, depth=30), 75, 25),
    Stage("profile", profile, 40, 15),
    Stage("training", training, 120, 30),
    Stage("tokenizer", tokenizer, 25, 10),
    Stage("loader", loader, 30, 12),
    Stage("speed d24", partial(speed, depth=24), 45, 20),
    Stage("speed d36-512", partial(speed, depth=36, large=True), 60, 30),
    Stage("run", small_run, 130, 60),
)
"""In the order of their value: what comes last may find no time."""


def main(
    out: Path,
    *,
    device: str = "",
    rehearse: Annotated[bool, cyclopts.Parameter(help="Everything on the CPU at toy size.")] = False,
    reference: Annotated[Path | None, cyclopts.Parameter(help="Clone of the authors' repository.")] = None,
    budget: Annotated[float, cyclopts.Parameter(help="Seconds for all stages together.")] = 400,
    only: Annotated[str, cyclopts.Parameter(help="Stages to run, with commas between; all without it.")] = "",
    work: Annotated[Path, cyclopts.Parameter(help="Folder for weights and runs.")] = ROOT / "build" / "gpu",
    keep: Annotated[bool, cyclopts.Parameter(help="Keep that folder.")] = False,
) -> None:
    """Run the stages and print the table."""
    chosen = [stage for stage in STAGES if not only or stage.name in only.split(",")]
    if unknown := set(filter(None, only.split(","))) - {stage.name for stage in STAGES}:
        raise SystemExit(f"{sorted(unknown)[0]!r} is no stage; expected some of {', '.join(s.name for s in STAGES)}")
    where = torch.device(device or ("cpu" if rehearse else "cuda"))
    code = None if reference is None else reference.resolve()
    setup = Setup(out.resolve(), work.resolve(), where, code, rehearse)
    for folder in (setup.out, setup.work):
        folder.mkdir(parents=True, exist_ok=True)
    report = Report(out / "gpu.json", {"commit": commit(), "rehearsal": rehearse, "date": time.strftime("%Y-%m-%d")})
    run_stages(chosen, setup, report, budget)
    if not keep:
        shutil.rmtree(setup.work, ignore_errors=True)
    text = table(report.values)
    (out / "gpu.md").write_text(text)
    print(text)


def commit() -> str:
    """The commit that gpu_on_device.sh names, else the checkout's; empty where neither is known."""
    if named := os.environ.get("NEXTSCALE_COMMIT", ""):
        return named
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


if __name__ == "__main__":
    cyclopts.run(main)
