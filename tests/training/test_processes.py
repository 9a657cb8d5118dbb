"""Both stages in two processes, against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nextscale import VARPipeline
from nextscale.checkpoint import load_transformer
from training import two_processes
from training.small_runs import Make, lines
from training.two_processes import STEPS, train_and_continue


def losses_of(out: Path) -> list[float]:
    """Of a run, which is exactly those of the run that was continued."""
    whole, resumed = (load_transformer(out / name).state_dict() for name in ("two", "again"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole), "exactly continued"
    losses, again = ([line["loss"] for line in lines(out / name) if "loss" in line] for name in ("two", "again"))
    assert again == losses and len(losses) == STEPS
    return losses


def test_two_processes_train_like_one(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    data, alone = image_folder(), tmp_path / "alone"
    train_and_continue(data, tokenizer_folder, alone, "ddp")
    launched = [tmp_path / "ddp", tmp_path / "fsdp"]
    script = [two_processes.__file__, str(data), str(tokenizer_folder), *map(str, launched)]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *script],
        capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for out in launched:
        assert losses_of(out) == pytest.approx(losses_of(alone), rel=1e-4)
        kept = sorted(path.is_dir() for path in (out / "two" / "checkpoints").iterdir())
        assert kept == [out.name == "fsdp"] * 2
        pipelines = (VARPipeline.from_pretrained(run / "two", dtype="fp32") for run in (alone, out))
        one, two = (pipeline.generate([0, 1, 2], seeds=[0, 1, 2]).tokens.packed for pipeline in pipelines)
        assert (one == two).float().mean() > 0.9, "nearly the same weights draw nearly the same tokens"
