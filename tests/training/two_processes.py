"""What torchrun runs for `test_processes.py`: both stages, and a run that is continued."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from nextscale.runtime import launched_processes
from nextscale.training.stage1 import train_tokenizer
from nextscale.training.stage2 import train_transformer
from toys import transformer_config
from training.small_runs import stage1_config, stage2_config

STEPS = 16


def train_and_continue(data: Path, tokenizer: Path, out: Path, parallel: str) -> None:
    """Train stage 2 into `out/two`, and again into `out/again` from its checkpoint half-way; stage 1 with DDP."""
    config = stage2_config(
        data, tokenizer, out / "two", log_every=1, parallel=parallel, model=transformer_config(drop_path=0.0),
        steps=STEPS, checkpoint_every=STEPS // 2, sample_every=STEPS // 2,
    )  # fmt: skip
    train_transformer(config)
    if parallel == "ddp":
        train_tokenizer(stage1_config(data, out / "one", steps=4))
    if launched_processes().is_main:
        shutil.copytree(out / "two", out / "again")
        newest = sorted((out / "again" / "checkpoints").iterdir())[-1]
        (shutil.rmtree if newest.is_dir() else Path.unlink)(newest)
    launched_processes().wait()
    train_transformer(replace(config, out=str(out / "again")), resume=True)


if __name__ == "__main__":
    data, tokenizer, *outs = map(Path, sys.argv[1:])
    for out in outs:
        train_and_continue(data, tokenizer, out, out.name)
