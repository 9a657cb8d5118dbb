"""Small trainings of both stages, and how they are stopped and read."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nextscale.training import loop, run
from nextscale.training.config import OptimiserConfig, TokenizerTraining, TransformerTraining
from toys import tokenizer_config, transformer_config

Make = Callable[..., Path]
FAST = OptimiserConfig(learning_rate=2e-2, ema=0.9, warmup=0.05)


def stage1_config(data: Path, out: Path, **changes: Any) -> TokenizerTraining:
    settings: dict = {
        "steps": 12,
        "batch_size": 6,
        "log_every": 2,
        "sample_every": 6,
        "checkpoint_every": 4,
        "restart_every": 3,
        "heldout_images": 8,
        "precision": "fp32",
        "device": "cpu",
        "model": tokenizer_config(),
        "optimiser": FAST,
    }
    return TokenizerTraining(data=str(data), out=str(out), **{"heldout": str(data)} | settings | changes)


def stage2_config(data: Path, tokenizer: Path, out: Path, **changes: Any) -> TransformerTraining:
    settings: dict = {
        "steps": 12,
        "batch_size": 6,
        "log_every": 2,
        "sample_every": 6,
        "checkpoint_every": 4,
        "enlarge": 1.0,
        "heldout_images": 8,
        "precision": "fp32",
        "device": "cpu",
        "optimiser": FAST,
        "model": transformer_config(drop_path=0.1),
    }
    return TransformerTraining(data=str(data), tokenizer=str(tokenizer), out=str(out), **settings | changes)


def lines(run: Path, *, timing: bool = False) -> list[dict]:
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return read if timing else [{k: v for k, v in line.items() if k != "images_per_second"} for line in read]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ask for a stop when the loop reports a step, as a signal would."""

    class Stopping(run.Metrics):
        def write(self, done: int, values: dict) -> None:
            super().write(done, values)
            if done == step:
                os.kill(os.getpid(), 15)

    monkeypatch.setattr(loop, "Metrics", Stopping)


def stop_while(monkeypatch: pytest.MonkeyPatch, module: ModuleType, reader: str, after: int) -> None:
    """Ask for a stop, as a signal would, when a measurement has read its images `after` times."""
    read, begun = getattr(module, reader), []

    def reading(*arguments: object, **options: object) -> Iterator[object]:
        begun.append(1)
        for batch in read(*arguments, **options):
            if len(begun) == after:
                os.kill(os.getpid(), 15)
            yield batch

    monkeypatch.setattr(module, reader, reading)


def weights(run: Path) -> dict[str, bytes]:
    """Files of weights of an exported model, by name."""
    return {str(path.relative_to(run)): path.read_bytes() for path in (run / "model").rglob("*.safetensors")}
