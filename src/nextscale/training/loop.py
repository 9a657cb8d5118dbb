"""The loop of both stages: it starts or resumes a run, takes its steps, records, saves, measures, exports and stops.

A stage (`stage1`, `stage2`) builds a model from settings and data and does one step; everything around the steps is
here.

Order, augmentation and class dropout are functions of the sample. What a step draws beside them (drop-path, masks,
noise) comes from torch's global generator, seeded by (seed, step, rank), and so depends on how samples are shared out
to processes: to draw it per sample, every layer would have to know which samples it has.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sized
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor, nn

from nextscale.bench.machine import peak_memory
from nextscale.data.source import ImageSource
from nextscale.data.stream import Position
from nextscale.data.tokens import TokenCache
from nextscale.errors import TrainingStopped
from nextscale.progress import Advance, Announce, Progress, duration, rate
from nextscale.runtime import precision_name, resolve_device, resolve_training_dtype
from nextscale.training.config import LoopConfig
from nextscale.training.divergence import LossWatch
from nextscale.training.exactness import exactness_line
from nextscale.training.images import Samples, first_line, load_position, save_position
from nextscale.training.optimisation import Average, Updater
from nextscale.training.parallel import any_process, launched, load_sharded, main_decides, reduce_mean, save_sharded
from nextscale.training.run import Metrics, RunFolder, Settings, continued, identity_of, stop_requests

logger = logging.getLogger("nextscale.training")


@dataclass(frozen=True)
class StepResult:
    """What a step leaves, on the device."""

    figures: dict[str, Tensor]
    "By name: scalars, or one value per scale."
    gradient_norm: Tensor
    loss: Tensor
    "Scalar that is finite only if all losses of the step are."
    batch: dict[str, Tensor]
    "What the losses were computed from, to be saved if they are not finite."


class TrainingStage(ABC, Generic[Settings]):
    """One stage of training for the loop. A subclass fills in the attributes and does the steps.

    Building one writes nothing, and raises ValueError for settings or data that cannot be used.
    """

    title: ClassVar[str]
    "What is trained, for lines of progress."
    allows_fp16: bool
    "Whether precision `auto` may be float16."

    command: str
    "The command after `nextscale train`."
    source: Samples
    "The data of the run, before images are set aside; not that of --heldout."
    heldout: TokenCache | ImageSource | None
    "Images that are not trained on, if any."
    measured: TokenCache | ImageSource | None
    "Images that are measured on, if any."
    average: Average
    "The averaged weights, which are measured and exported."
    updaters: dict[str, Updater]
    "One for each network that is optimised, by name. The state of '' lies at the top of a checkpoint."
    sharded: bool = False
    "Whether model, average and optimiser are split over the processes."
    needs_checkpoint: bool = False
    "Whether initial weights are not those that `init_from` asks for, because a checkpoint is to replace them."

    def __init__(self, config: Settings, *, resume: bool) -> None:
        self.processes = launched()
        self.device = resolve_device(config.device)
        self.run = RunFolder(Path(config.out), keep=config.keep)
        self.before = self.run.look(resume=resume)
        config = continued(config, self.before)
        self.config, self.dtype = settled_precision(config, self.device, half=self.allows_fp16)

    @abstractmethod
    def batches(self, start: int, position: Position | None) -> Generator[Any, None, None]:
        """Endless batches of this process from step `start`; a stream continues from its `position`."""

    @abstractmethod
    def step(self, step: int, batch: Any) -> StepResult:
        """Train on a batch. On CUDA this only queues work: nothing here may wait for the device."""

    @abstractmethod
    def step_line(self, figures: dict[str, Any]) -> str:
        """The figures of a step in a few words."""

    @abstractmethod
    def measure(self, model: nn.Module, done: int, announce: Announce) -> tuple[dict[str, Any], str]:
        """Figures of `measured` after `done` steps, and a line about them."""

    @abstractmethod
    def export(self, model: nn.Module, done: int, journal: Journal, stop: Callable[[], bool]) -> None:
        """Write RUN/model, and pictures."""

    def inputs(self) -> dict[str, Any]:
        """Identities of what the run is applied to."""
        return {"data": identity_of(self.source), "heldout": identity_of(self.heldout if self.config.heldout else None)}

    def prepare(self) -> None:
        """Compile and wrap the model, whose weights are final now."""

    def averaged(self) -> nn.Module | None:
        """The model with averaged weights, on the main process; all processes must call."""
        return self.average.module

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the step; everything else is a function of them."""
        state = {"average": self.average.state_dict()}
        for name, updater in self.updaters.items():
            state |= {name: updater.state()} if name else updater.state()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.average.load_state_dict(state["average"])
        for name, updater in self.updaters.items():
            updater.restore(state[name] if name else state)

    def save(self, done: int, position: Position | None) -> None:
        """Write a checkpoint."""
        save_position(self.run, done, self.processes, position)
        if self.sharded:
            self.run.save_sharded(done, lambda folder: save_sharded(*self.only(), folder), self.processes)
        elif self.processes.is_main:
            self.run.save_checkpoint(done, {"step": done} | self.state())

    def resume(self) -> int:
        """Continue from the newest checkpoint; returns its step, 0 where there is none. Raises ValueError."""
        first = 0
        if self.before is not None and self.sharded:
            first = self.run.load_sharded(lambda folder: load_sharded(*self.only(), folder))
        elif self.before is not None and (state := self.run.load_checkpoint()) is not None:
            first = state["step"]
            self.restore(state)
        if first:
            logger.info("resumed at step %d", first)
        elif self.needs_checkpoint:
            raise ValueError(f"{self.run.path}: none of its checkpoints can be read; remove the folder to begin again")
        return first

    def only(self) -> tuple[Updater, Average]:
        """The one network of a sharded run, and its average."""
        (updater,) = self.updaters.values()
        return updater, self.average


def train(stage: TrainingStage[Any]) -> Path:
    """Take all steps of a run that are left and export its model; returns that folder.

    Raises ValueError where the folder holds another run, TrainingDiverged, and TrainingStopped after a signal.
    """
    config, run, processes = stage.config, stage.run, stage.processes
    main_decides(lambda: run.start(config, stage.command, stage.inputs(), stage.before), processes)
    if processes.is_main:
        logger.info(first_line(stage.source, stage.heldout, config))
        if line := exactness_line(stage.device, config.deterministic):
            logger.info(line)
    first = stage.resume()
    stage.prepare()
    batches = stage.batches(first, load_position(run, first, processes) if config.stream else None)
    journal = Journal(run.path, config, start=first, title=stage.title, main=processes.is_main, device=stage.device)
    watch = LossWatch(run.path, processes.rank)
    done, current = first, True  # current: the exported model is of this step, if it should be
    with stop_requests() as stop, closing(batches), closing(journal):
        if shown_at(config, first) and any_process(processes.is_main and run.is_behind(first)):
            current = show(stage, first, journal, stop)
        for step in range(first, config.steps if current else first):
            batch = next(batches)
            result = take_step(stage, step, batch, watch)
            done = step + 1
            if journal.reads(done):
                watch.look()
            journal.step(done, result, stage.step_line)
            stopping = any_process(stop.is_set())
            saving = stopping or done == config.steps or done % config.checkpoint_every == 0
            if saving or shown_at(config, done):
                watch.look()
            if saving:
                stage.save(done, batch.position)
            if shown_at(config, done):
                current = not stopping and show(stage, done, journal, stop)
                if not current and not saving:
                    stage.save(done, batch.position)
            if stopping or not current:
                break
    if done < config.steps or not current:
        raise TrainingStopped(f"{run.path}: stopped at step {done} of {config.steps}; --resume continues")
    return run.path / "model"


def take_step(stage: TrainingStage[Any], step: int, batch: Any, watch: LossWatch) -> StepResult:
    """Train on a batch; raises TrainingDiverged where the loss of the step before is not finite."""
    torch.manual_seed(hash((stage.config.seed, step, stage.processes.rank)))
    result = stage.step(step, batch)
    watch.note(step, result.loss, result.batch)
    return result


def show(stage: TrainingStage[Any], done: int, journal: Journal, stop: Event) -> bool:
    """Measure and export on the main process; False on all when it was asked to stop while measuring."""
    model, finished = stage.averaged(), True
    if model is not None and stage.processes.is_main:
        try:
            measure_and_export(stage, model, done, journal, stop)
        except MeasurementStopped:
            finished = False
    return not any_process(not finished)


def measure_and_export(stage: TrainingStage[Any], model: nn.Module, done: int, journal: Journal, stop: Event) -> None:
    """Measure, record, export. Raises MeasurementStopped, with nothing recorded or exported."""

    def announce(title: str, total: int) -> Advance:
        advance = journal.progress.aside(title, total)

        def advance_or_stop(count: int) -> None:
            advance(count)
            if stop.is_set():
                raise MeasurementStopped

        return advance_or_stop

    if stage.measured is not None:
        figures, line = stage.measure(model, done, announce)
        journal.write(done, figures)
        place = "training" if stage.heldout is None else "held-out"
        logger.info("%s images at step %d: %s", place, done, line)
    stage.export(model, done, journal, stop.is_set)


class MeasurementStopped(Exception):
    """A measurement was left between two batches, because the run was asked to stop."""


def settled_precision(config: Settings, device: torch.device, *, half: bool) -> tuple[Settings, torch.dtype]:
    """The settings with `auto` replaced by the precision of this machine, which the run then keeps, and its type.

    Without `half`, `auto` is never float16.
    """
    dtype = resolve_training_dtype(config.precision, device)
    if config.precision == "auto":
        dtype = torch.float32 if dtype == torch.float16 and not half else dtype
    return replace(config, precision=precision_name(dtype)), dtype


def counted_steps(config: LoopConfig, images: Sized | object) -> int:
    """Steps of a run: as set, or as many as its epochs take."""
    if not config.epochs:
        return config.steps
    assert isinstance(images, Sized), "streams count steps"
    return max(1, math.ceil(config.epochs * len(images) / config.batch_size))


def shown_at(config: LoopConfig, done: int) -> bool:
    """Whether a run is measured and exported after so many steps."""
    return done > 0 and (done % config.sample_every == 0 or done == config.steps)


class Journal:
    """Metrics files and progress of a run; only the main process writes, all must call."""

    def __init__(
        self, folder: Path, config: LoopConfig, *, start: int, title: str, main: bool, device: torch.device
    ) -> None:
        self.config, self.main, self.device = config, main, device
        self.metrics = Metrics(folder, start=start) if main else None
        self.progress = Progress(config.steps, start=start, title=title, enabled=main, line_seconds=30)
        self.began, self.since, self.first = time.monotonic(), start, start
        self.forecast: Forecast | None = None

    def records(self, done: int) -> bool:
        """Whether the figures of a step are recorded."""
        return done % self.config.log_every == 0 or done == self.config.steps

    def reads(self, done: int) -> bool:
        """Whether the figures of a step are read: they are recorded, or shown, as those of the first step are."""
        return self.records(done) or done == self.first + 1

    def step(self, done: int, result: StepResult, describe: Callable[[dict[str, Any]], str]) -> None:
        """Advance; every `log_every` steps record the figures, averaged over processes, and the speed.

        The first step is shown, and the time that all of them will take as soon as that is known.
        """
        if self.reads(done):
            values = {name: reduce_mean(value) for name, value in result.figures.items()}
            speed = (done - self.since) * self.config.batch_size / (time.monotonic() - self.began)
            if self.records(done):
                norm = float(result.gradient_norm)
                self.write(done, values | {"gradient_norm": norm, "images_per_second": speed})
                self.began, self.since = time.monotonic(), done
            self.progress.note(done, f"{describe(values)}  {rate(speed)} images/s")
        self.progress.advance(done)
        if self.forecast is None:
            self.forecast = Forecast(done, time.monotonic(), self.config)
        elif self.main and (line := self.forecast.line(done, time.monotonic())):
            logger.info(line + memory_note(self.device))

    def write(self, done: int, values: dict[str, Any]) -> None:
        """Record figures of a step."""
        if self.metrics is not None:
            self.metrics.write(done, values)

    def lines(self) -> list[dict[str, Any]]:
        """All that was recorded so far; nothing but on the main process."""
        return [] if self.metrics is None else self.metrics.lines()

    def close(self) -> None:
        self.progress.close()
        if self.metrics is not None:
            self.metrics.close()


class Forecast:
    """How long a run will take, said once: from the end of its first step, which also prepares, over the next ones."""

    def __init__(self, done: int, now: float, config: LoopConfig) -> None:
        self.start, self.began, self.config, self.said = done, now, config, False

    def line(self, done: int, now: float) -> str:
        """The forecast once ten seconds and three steps are over; empty before and after, and near the end."""
        steps, spent = done - self.start, now - self.began
        if self.said or steps < 3 or spent < 10:
            return ""
        self.said = True
        left = spent / steps * (self.config.steps - done)
        speed = rate(steps * self.config.batch_size / spent)
        return f"about {duration(left)} to go at {speed} images/s; stop at any time, --resume continues"


def memory_note(device: torch.device) -> str:
    """The most memory that training took so far on a GPU, in words; empty on other devices."""
    if device.type != "cuda":
        return ""
    used, all_of_it = peak_memory(device), torch.cuda.get_device_properties(device).total_memory
    return f"; takes {used / 2**30:.1f} of the GPU's {all_of_it / 2**30:.0f} GiB"
