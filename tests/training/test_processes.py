"""Both stages in two processes, against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nextscale import VARPipeline
from nextscale.checkpoint import load_transformer
from training.small_runs import Make, lines

SCRIPT = """
import shutil, sys
sys.path.insert(0, {tests!r})
from dataclasses import replace
from pathlib import Path
from nextscale.runtime import launched_processes
from toys import transformer_config
from training.small_runs import stage1_config, stage2_config
from nextscale.training.parallel import wait_for_all
from nextscale.training.stage1 import train_tokenizer
from nextscale.training.stage2 import train_transformer
data, out = Path({data!r}), Path({out!r})
config = stage2_config(
    data, Path({tokenizer!r}), out / "two", log_every=1, parallel={parallel!r}, model=transformer_config(drop_path=0.0),
    steps=50, checkpoint_every=25,
)
train_transformer(config)
if {parallel!r} == "ddp":
    train_tokenizer(stage1_config(data, out / "one", steps=4))
if launched_processes().is_main:
    shutil.copytree(out / "two", out / "again")
    newest = sorted((out / "again" / "checkpoints").iterdir())[-1]
    (shutil.rmtree if newest.is_dir() else Path.unlink)(newest)
wait_for_all()
train_transformer(replace(config, out=str(out / "again")), resume=True)
"""


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_like_one(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, parallel: str
) -> None:
    data, tests = image_folder(), Path(__file__).parents[1]
    losses, pipelines = {}, {}
    for world in (1, 2):
        script, out = tmp_path / f"train{world}.py", tmp_path / str(world)
        names = {"tests": tests, "data": data, "out": out, "tokenizer": tokenizer_folder, "parallel": parallel}
        script.write_text(SCRIPT.format(**{name: str(value) for name, value in names.items()}))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", script]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        losses[world] = [line["loss"] for line in lines(out / "two") if "loss" in line]
        pipelines[world] = VARPipeline.from_pretrained(out / "two", dtype="fp32")
        whole, resumed = (load_transformer(out / name).state_dict() for name in ("two", "again"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole), "exactly continued"
        assert [line["loss"] for line in lines(out / "again") if "loss" in line] == losses[world]
    assert len(losses[2]) == 50
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)
    kept = sorted(path.is_dir() for path in (tmp_path / "2" / "two" / "checkpoints").iterdir())
    assert kept == [parallel == "fsdp"] * 2
    one, two = (pipelines[world].generate([0, 1, 2], seeds=[0, 1, 2]).tokens.packed for world in (1, 2))
    assert (one == two).float().mean() > 0.9, "nearly the same weights draw nearly the same tokens"
