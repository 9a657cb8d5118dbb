"""What the loops of both stages share: settings, one optimiser step, resume state, the journal of a run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from nextscale.checkpoint import save_torch
from nextscale.errors import TrainingDiverged
from nextscale.progress import Progress, duration, rate
from nextscale.runtime import precision_name, resolve_training_dtype
from nextscale.training.config import LoopConfig
from nextscale.training.distributed import reduce_mean
from nextscale.training.metrics import Metrics
from nextscale.training.optimisation import Average

logger = logging.getLogger("nextscale.training")

LARGEST_SCALE = 32768.0
"""Bound on the scale of float16 gradients (published recipe)."""


Settings = TypeVar("Settings", bound=LoopConfig)


def settled_precision(config: Settings, device: torch.device, *, half: bool) -> tuple[Settings, torch.dtype]:
    """The settings with the precision that `auto` is here, which a run keeps wherever it continues, and its type.

    Without `half`, float16 is not taken.
    """
    dtype = resolve_training_dtype(config.precision, device)
    if config.precision == "auto":
        dtype = torch.float32 if dtype == torch.float16 and not half else dtype
    return replace(config, precision=precision_name(dtype)), dtype


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


def shown_at(config: LoopConfig, done: int) -> bool:
    """Whether a run is measured and exported after so many steps."""
    return done > 0 and (done % config.sample_every == 0 or done == config.steps)


class Journal:
    """Metrics files and progress of a run; only the main process writes, all must call."""

    def __init__(self, folder: Path, config: LoopConfig, *, start: int, title: str, main: bool) -> None:
        self.config, self.main = config, main
        self.metrics = Metrics(folder, start=start) if main else None
        self.progress = Progress(config.steps, start=start, title=title, enabled=main, line_seconds=30)
        self.began, self.since, self.first = time.monotonic(), start, start
        self.forecast: Forecast | None = None

    def step(
        self, done: int, figures: dict[str, Tensor], norm: Tensor, describe: Callable[[dict[str, Any]], str]
    ) -> None:
        """Advance; every `log_every` steps record the figures, averaged over processes, and the speed.

        The first step is shown, and the time that all of them will take as soon as that can be told.
        """
        recorded = done % self.config.log_every == 0 or done == self.config.steps
        if recorded or done == self.first + 1:
            values = {name: reduce_mean(value) for name, value in figures.items()}
            speed = (done - self.since) * self.config.batch_size / (time.monotonic() - self.began)
            if recorded:
                self.write(done, values | {"gradient_norm": float(norm), "images_per_second": speed})
                self.began, self.since = time.monotonic(), done
            self.progress.note(done, f"{describe(values)}  {rate(speed)} images/s")
        self.progress.advance(done)
        if self.forecast is None:
            self.forecast = Forecast(done, time.monotonic(), self.config)
        elif self.main and (line := self.forecast.line(done, time.monotonic())):
            logger.info(line)

    def write(self, done: int, values: dict[str, Any]) -> None:
        """Record figures of a step."""
        if self.metrics is not None:
            self.metrics.write(done, values)

    def close(self) -> None:
        self.progress.close()
        if self.metrics is not None:
            self.metrics.close()


class Forecast:
    """How long a run will take, told once: from the end of its first step, which also prepares, over the next ones."""

    def __init__(self, done: int, now: float, config: LoopConfig) -> None:
        self.start, self.began, self.config, self.told = done, now, config, False

    def line(self, done: int, now: float) -> str:
        """The forecast once ten seconds and three steps are over; empty before and after, and near the end."""
        steps, spent = done - self.start, now - self.began
        if self.told or steps < 3 or spent < 10:
            return ""
        self.told = True
        left = spent / steps * (self.config.steps - done)
        speed = rate(steps * self.config.batch_size / spent)
        return f"about {duration(left)} to go at {speed} images/s; stop at any time, --resume continues"
