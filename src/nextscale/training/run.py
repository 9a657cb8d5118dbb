"""A run folder: full config, metrics, resume checkpoints, sample pictures, exported model.

    RUN/config.json  RUN/run.json  RUN/metrics.jsonl  RUN/tensorboard/  RUN/samples/  RUN/checkpoints/  RUN/model/

Checkpoints are torch files read back with `weights_only`; the exported model is safetensors.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from nextscale.checkpoint import load_config, save_torch
from nextscale.files import complete_file, unwritable
from nextscale.runtime import Processes
from nextscale.training.config import LoopConfig
from nextscale.training.distributed import wait_for_all
from nextscale.training.metrics import LOG
from nextscale.training.record import Record, read_record, require_same_inputs, require_same_settings, write_record

logger = logging.getLogger("nextscale.training")


class RunFolder:
    """Paths and files of a run; only the main process writes."""

    def __init__(self, path: Path, *, keep: int = 2) -> None:
        self.path = path
        self.keep = keep

    def look(self, *, resume: bool) -> Record | None:
        """What an earlier start recorded, if there is something to continue; reads only.

        A start that left no metrics, checkpoint or model is as good as none. Raises ValueError for a folder that is
        in use, without `resume`.
        """
        before = read_record(self.path)
        began = [self.path / "model", self.path / LOG, *(self.path / "checkpoints").glob("step-*")]
        if before is None or not any(path.exists() for path in began):
            return None
        if not resume:
            raise ValueError(f"{self.path}: holds a run already; add --resume to continue it or choose another --out")
        return before

    def start(self, config: LoopConfig, command: str, inputs: dict[str, Any], before: Record | None = None) -> None:
        """Create the folder and record what the run is, or go on in it.

        Raises ValueError when it cannot be written, or when `before` had other settings or inputs.
        """
        if before is not None:
            require_same_settings(self.path, before, config)
            require_same_inputs(self.path, before, inputs, config)
        try:
            for name in ("samples", "checkpoints"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            write_record(self.path, config, command, inputs)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def is_behind(self, step: int) -> bool:
        """Whether the exported model is missing, or of another step than a checkpoint that was stopped right after.

        Models of earlier versions do not say their step; they are taken for good.
        """
        if not (self.path / "model" / "config.json").is_file():
            return True
        return load_config(self.path / "model").trained_steps not in (0, step)

    def checkpoints(self, *, sharded: bool = False) -> list[Path]:
        """Complete checkpoints, oldest first: files, or folders where the state is sharded."""
        return sorted((self.path / "checkpoints").glob("step-????????" if sharded else "step-*.pt"))

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Write atomically, then drop all but the newest `keep`. Raises ValueError when it cannot be written."""
        with complete_file(self.path / "checkpoints" / f"step-{step:08d}.pt") as partial:
            save_torch(state, partial)
        for old in self.checkpoints()[: -self.keep]:
            old.unlink(missing_ok=True)

    def save_sharded(self, step: int, save: Callable[[Path], None], processes: Processes) -> None:
        """Let all processes write one checkpoint folder with `save`; it appears when all are done."""
        final = self.path / "checkpoints" / f"step-{step:08d}"
        partial = final.with_name(f".partial-{final.name}")
        if processes.is_main:
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was cut off
        wait_for_all()
        save(partial)
        wait_for_all()
        if processes.is_main:
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in self.checkpoints(sharded=True)[: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)
        wait_for_all()

    def load_sharded(self, load: Callable[[Path], None]) -> int:
        """Take up the newest checkpoint folder that reads; returns its step, 0 where there is none."""
        for path in reversed(self.checkpoints(sharded=True)):
            try:
                load(path)
                return int(path.name.removeprefix("step-"))
            except Exception as error:  # a damaged file raises many kinds; an older one may still be good
                logger.warning("checkpoint %s cannot be read (%s); trying the one before", path, error)
        return 0

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint that reads, or None."""
        for path in reversed(self.checkpoints()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # a damaged file raises many kinds; an older one may still be good
                logger.warning("checkpoint %s cannot be read (%s); trying the one before", path, error)
        return None


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event set by SIGINT or SIGTERM, so that a loop can save and leave between two steps."""
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        logger.warning("%s: saving a checkpoint, then stopping", signal.Signals(number).name)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
