"""A run folder: full config, metrics, resume checkpoints, sample pictures, exported model.

    RUN/config.json  RUN/metrics.jsonl  RUN/tensorboard/  RUN/samples/  RUN/checkpoints/  RUN/model/

Checkpoints are torch files read back with `weights_only`; the exported model is safetensors.
"""

from __future__ import annotations

import json
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

from nextscale.checkpoint import save_torch
from nextscale.config import read_json
from nextscale.files import complete_file, unwritable, write_json
from nextscale.runtime import Processes
from nextscale.training.distributed import wait_for_all

logger = logging.getLogger("nextscale.training")


class RunFolder:
    """Paths and files of a run; only the main process writes."""

    def __init__(self, path: Path, *, keep: int = 2) -> None:
        self.path = path
        self.keep = keep

    def start(self, config: dict[str, Any], *, resume: bool) -> None:
        """Create the folder and record the config.

        Raises ValueError for a folder already in use without `resume`, or resumed with another config.
        """
        recorded = self.path / "config.json"
        if recorded.exists():
            if not resume:
                raise ValueError(
                    f"{self.path}: holds a run already; add --resume to continue it or choose another --out"
                )
            before = read_json(recorded)
            changed = [key for key in config if differs(before, config, key) and key not in RESUMABLE]
            if changed:
                raise ValueError(
                    f"{self.path}: cannot resume with another {changed[0]}: "
                    f"it was {before.get(changed[0])!r}, now {config[changed[0]]!r}"
                )
        try:
            for name in ("samples", "checkpoints"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            write_json(recorded, config)
        except OSError as error:
            raise unwritable(self.path, error) from error

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


def differs(before: dict[str, Any], now: dict[str, Any], key: str) -> bool:
    """Whether a setting has another value; one that an earlier version did not know yet has none."""
    if key not in before:
        return False
    if isinstance(before[key], dict) and isinstance(now[key], dict):
        return any(differs(before[key], now[key], inner) for inner in now[key])
    return before[key] != now[key]


RESUMABLE = ("heldout", "out", "keep", "checkpoint_every", "log_every", "sample_every", "compile", "export", "limit")
"""Settings that may differ between a run and its continuation: they do not change the weights."""


class Metrics:
    """JSON lines and TensorBoard; on resume, later lines than the checkpoint are dropped."""

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if line.strip()]
            kept = [line for line in lines if json.loads(line)["step"] <= start] if start else []
            self.path.write_text("".join(line + "\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record numbers and lists of numbers (one per scale) of a step."""
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from error
        for name, value in values.items():
            if isinstance(value, list):
                for scale, part in enumerate(value):
                    self.board.add_scalar(f"{name}/scale{scale + 1}", part, step)
            elif isinstance(value, (int, float)):
                self.board.add_scalar(name, value, step)

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def close(self) -> None:
        self.board.close()


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
