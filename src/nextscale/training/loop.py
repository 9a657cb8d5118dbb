"""What the loops of both stages share: settings, one optimiser step, resume state, the journal of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nextscale.config import require_at_least
from nextscale.progress import Progress
from nextscale.runtime import PRECISIONS
from nextscale.training.distributed import reduce_mean
from nextscale.training.optimisation import Average
from nextscale.training.run import Metrics


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings that both stages have."""

    data: str
    "Training data: images (folder, parquet, WebDataset, hub id); for transformers also tokens."
    out: str
    "Run folder to write."
    heldout: str = ""
    "Held-out data to measure on while training."
    heldout_images: int = 512
    "Held-out images measured."
    steps: int = 10_000
    "Optimiser steps."
    batch_size: int = 64
    "Images per step, over all processes."
    seed: int = 0
    "Seed of initial weights, order, augmentation and dropout."
    enlarge: float = 1.0
    "For images: resize before the random crop, as a multiple of the crop; 1 leaves images of the right size alone."
    flip: bool = False
    "For images: mirror half of them."
    limit: int = 100
    "Unreadable images tolerated; they are named, counted and replaced by the next."
    precision: str = "bf16"
    "Autocast type: bf16, fp32."
    device: str = "auto"
    "auto, cpu, cuda, mps."
    compile: bool = False
    "Compile the model: half a minute to start; transformers then train up to 1.6 times faster on CPU."
    log_every: int = 50
    "Steps between metric lines."
    sample_every: int = 1000
    "Steps between held-out measurements, sample pictures and exports."
    checkpoint_every: int = 500
    "Steps between checkpoints."
    keep: int = 2
    "Checkpoints kept."
    export: str = "fp32"
    "Type that the exported model's weights are stored in: fp32, bf16 (half the size), fp16."

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "log_every", "sample_every", "checkpoint_every", "heldout_images", "keep")
        require_at_least(self, 1, *names)
        require_at_least(self, 0, "limit")
        if self.export not in PRECISIONS:
            raise ValueError(f"export {self.export!r} is not known; expected one of {', '.join(PRECISIONS)}")
        if self.enlarge < 1:
            raise ValueError(f"enlarge must be at least 1, got {self.enlarge}")


def optimise(model: nn.Module, optimiser: Optimizer, average: Average[Any] | None, clip: float) -> Tensor:
    """Clip the gradients that are there, step, average; returns the gradient norm before clipping."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    if average is not None:
        average.update_parameters(model)
    return norm


def resume_state(step: int, model: nn.Module, optimiser: Optimizer, average: Average[Any]) -> dict[str, Any]:
    """All that a run needs to go on exactly: everything else is a function of the step."""
    return {
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
    }


def restore(state: dict[str, Any], model: nn.Module, optimiser: Optimizer, average: Average[Any]) -> int:
    """Take up a resume state; returns the steps done."""
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]


class Journal:
    """Metrics files and progress of a run; only the main process writes, all must call."""

    def __init__(self, folder: Path, config: LoopConfig, *, start: int, title: str, main: bool) -> None:
        self.config = config
        self.metrics = Metrics(folder, start=start) if main else None
        self.progress = Progress(config.steps, start=start, title=title, enabled=main)
        self.began, self.since = time.monotonic(), start

    def step(
        self, done: int, figures: dict[str, Tensor], norm: Tensor, describe: Callable[[dict[str, Any]], str]
    ) -> None:
        """Advance; every `log_every` steps record the figures, averaged over processes, and the speed."""
        if done % self.config.log_every == 0 or done == self.config.steps:
            values = {name: reduce_mean(value) for name, value in figures.items()}
            speed = (done - self.since) * self.config.batch_size / (time.monotonic() - self.began)
            self.write(done, values | {"gradient_norm": float(norm), "images_per_second": speed})
            self.progress.note(done, f"{describe(values)}  {speed:.0f} images/s")
            self.began, self.since = time.monotonic(), done
        self.progress.advance(done)

    def write(self, done: int, values: dict[str, Any]) -> None:
        """Record figures of a step."""
        if self.metrics is not None:
            self.metrics.write(done, values)

    def close(self) -> None:
        self.progress.close()
        if self.metrics is not None:
            self.metrics.close()
