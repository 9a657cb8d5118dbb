"""What the loops of both stages share: settings, one optimiser step, resume state, the journal of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from nextscale.checkpoint import save_torch
from nextscale.config import require_at_least
from nextscale.errors import TrainingDiverged
from nextscale.progress import Progress
from nextscale.runtime import PRECISIONS
from nextscale.training.distributed import reduce_mean
from nextscale.training.optimisation import Average
from nextscale.training.run import Metrics

LARGEST_SCALE = 32768.0
"""Bound on the scale of float16 gradients (published recipe)."""


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
    epochs: float = 0.0
    "Passes over the data instead of a number of steps; 0 counts steps."
    batch_size: int = 64
    "Images per step, over all processes."
    seed: int = 0
    "Seed of initial weights, order, augmentation and dropout."
    enlarge: float = 1.0
    "For images: resize before the random crop, as a multiple of the crop; 1 leaves images of the right size alone."
    flip: bool = False
    "For images: mirror half of them."
    stream: bool = False
    "Read images in the order of their files instead of by index: for sets too large to index or to keep on one disk."
    stream_classes: int = 0
    "Classes of a stream whose labels are plain numbers."
    label_column: str = ""
    "For images: column of the labels where it is in doubt (in .tar: a suffix, a .json key, folder); none: no classes."
    image_column: str = ""
    "For images: their column where it is in doubt; in .tar: their suffix."
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
        require_at_least(self, 0, "limit", "epochs", "stream_classes")
        if self.stream and self.epochs:
            raise ValueError("a stream does not know its length; give --steps instead of --epochs")
        if self.export not in PRECISIONS:
            raise ValueError(f"export {self.export!r} is not known; expected one of {', '.join(PRECISIONS)}")
        if self.enlarge < 1:
            raise ValueError(f"enlarge must be at least 1, got {self.enlarge}")


class Updater:
    """Turns losses into better weights: gradients (scaled in float16), clipping, a step, the average."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: Optimizer,
        *,
        clip: float,
        average: Average[Any] | None = None,
        scaler: torch.amp.GradScaler | None = None,  # pyright: ignore[reportPrivateImportUsage]
    ) -> None:
        self.model, self.optimiser, self.clip = model, optimiser, clip
        self.average, self.scaler = average, scaler

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that are there."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self) -> Tensor:
        """Clip, step, average, clear; returns the gradient norm before clipping."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.scaler is None:
            self.optimiser.step()
        else:
            self.scaler.step(self.optimiser)
            self.scaler.update()
            if self.scaler.get_scale() > LARGEST_SCALE:
                self.scaler.update(LARGEST_SCALE)
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return norm

    def state(self) -> dict[str, Any]:
        """What a run needs to go on exactly, beside the step: everything else is a function of it."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

    def parts(self) -> dict[str, Any]:
        """Everything that has a state."""
        parts = {"model": self.model, "optimiser": self.optimiser, "average": self.average, "scaler": self.scaler}
        return {name: part for name, part in parts.items() if part is not None}


def gradient_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler | None:  # pyright: ignore[reportPrivateImportUsage]
    """The scaler that float16 gradients need (initial 2^11, doubled every 1,000 good steps); None for others."""
    if dtype != torch.float16:
        return None
    return torch.amp.GradScaler(device.type, init_scale=2.0**11, growth_interval=1000)  # pyright: ignore[reportPrivateImportUsage]


def require_finite(loss: Tensor, step: int, folder: Path, batch: dict[str, Tensor], rank: int) -> None:
    """Raises TrainingDiverged, with the batch saved, when the loss of any process is not a finite number."""
    finite = torch.isfinite(loss.detach()).float()
    if dist.is_initialized():
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    if finite:
        return
    path = folder / f"non-finite-step-{step:08d}-rank-{rank}.pt"
    save_torch({name: tensor.detach().cpu() for name, tensor in batch.items()}, path)
    raise TrainingDiverged(
        f"the loss is {float(loss.detach())} at step {step}; its batch is in {path}. "
        "--resume goes on from the last checkpoint; if it happens again, lower --learning-rate or --clip"
    )


def counted_steps(config: LoopConfig, images: Sized | object) -> int:
    """Steps of a run over data whose images can be counted, or of one that counts steps."""
    if not config.epochs:
        return config.steps
    assert isinstance(images, Sized), "streams count steps"
    return max(1, math.ceil(config.epochs * len(images) / config.batch_size))


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
