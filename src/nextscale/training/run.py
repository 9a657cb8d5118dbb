"""A run folder: what it holds, how it is written, and what a run that continues must have in common with its start.

    RUN/config.json     all settings; `--config RUN/config.json` does the same again
    RUN/run.json        the command, and the identities of the data, the held-out data and the perceptual network
    RUN/metrics.jsonl   figures, a line a step; RUN/tensorboard/ has the same
    RUN/samples/        pictures
    RUN/checkpoints/    the newest states to resume from: torch files, read back with `weights_only`, or sharded folders
    RUN/model/          the exported model, safetensors

A run continues with what it recorded. Its data may lie elsewhere or be spelled differently by then: identities decide.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch

from nextscale.checkpoint import CONFIG, RUN, load_config, save_torch
from nextscale.config import read_json, read_json_lines, to_dict
from nextscale.data.identity import data_identity
from nextscale.data.source import ImageSource
from nextscale.data.stream import ImageStream
from nextscale.data.tokens import TokenCache
from nextscale.files import complete_file, unwritable, write_json
from nextscale.runtime import Processes
from nextscale.training.config import LoopConfig

logger = logging.getLogger("nextscale.training")

LOG = "metrics.jsonl"
Loaded = TypeVar("Loaded")
Settings = TypeVar("Settings", bound=LoopConfig)
MAY_CHANGE = frozenset(
    {"data", "label_column", "image_column", "caption_column", "caption_template", "heldout"}  # places
    | {"tokenizer", "perceptual_weights", "out", "device"}  # places
    | {"heldout_images", "decoded_images", "sample_every", "log_every", "checkpoint_every", "keep", "export", "limit"}
    | {"compile", "accumulate", "checkpointing", "deterministic"}
    | {"guidance", "top_k", "top_p", "refine_steps"}  # defaults of the exported model
)
"""Settings that may differ between a run and its continuation: they do not change what is learned, or identities say
whether they do."""


@dataclass(frozen=True)
class Record:
    """What an earlier start of a run wrote."""

    settings: dict[str, Any]
    command: str = ""
    "tokenizer, or a kind of model; empty where an earlier version wrote none."
    inputs: dict[str, Any] = field(default_factory=dict)
    "Identities by name: data, heldout, perceptual, teacher."


def read_record(folder: Path) -> Record | None:
    """The record of a run folder; None where no run began. Raises ValueError for a damaged one."""
    if not (folder / CONFIG).is_file():
        return None
    settings = read_json(folder / CONFIG)
    if not {"data", "out", "steps"} <= set(settings):
        raise ValueError(f"{folder}: holds a config.json that is not a run's; choose another --out")
    if "heldout_images" in settings:
        settings.setdefault("heldout_share", 0.0)  # earlier versions trained on all images
    about = read_json(folder / RUN) if (folder / RUN).is_file() else {}
    return Record(settings, about.get("command", ""), about.get("inputs", {}))


class RunFolder:
    """Paths and files of a run; only the main process writes."""

    def __init__(self, path: Path, *, keep: int = 2) -> None:
        self.path = path
        self.keep = keep

    def look(self, *, resume: bool) -> Record | None:
        """What an earlier start recorded, if there is something to continue; reads only.

        A start that left no metrics, checkpoint or model counts as none. Raises ValueError for a folder that is in
        use, without `resume`.
        """
        before = read_record(self.path)
        began = [self.path / "model", self.path / LOG, *(self.path / "checkpoints").glob("step-*")]
        if before is None or not any(path.exists() for path in began):
            return None
        if not resume:
            raise ValueError(f"{self.path}: holds a run already; add --resume to continue it or choose another --out")
        return before

    def start(self, config: LoopConfig, command: str, inputs: dict[str, Any], before: Record | None = None) -> None:
        """Create the folder and record what the run is, or continue in it.

        Raises ValueError when it cannot be written, or when `before` had other settings or inputs.
        """
        if before is not None:
            require_same_settings(self.path, before, config)
            require_same_inputs(self.path, before, inputs, config)
        try:
            for name in ("samples", "checkpoints"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            write_json(self.path / RUN, {"command": command, "inputs": inputs})
            write_json(self.path / CONFIG, to_dict(config))
        except OSError as error:
            raise unwritable(self.path, error) from error

    def is_behind(self, step: int) -> bool:
        """Whether the exported model is missing, or of another step than a checkpoint that was stopped right after.

        Models of earlier versions do not say their step; they count as up to date.
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
        processes.wait()
        save(partial)
        processes.wait()
        if processes.is_main:
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in self.checkpoints(sharded=True)[: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)
        processes.wait()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint file that reads, or None."""
        return newest(self.checkpoints(), lambda path: torch.load(path, map_location="cpu", weights_only=True))

    def load_sharded(self, load: Callable[[Path], None]) -> int:
        """Call `load` with the newest checkpoint folder that reads; returns its step, 0 where there is none."""

        def step_of(path: Path) -> int:
            load(path)
            return int(path.name.removeprefix("step-"))

        return newest(self.checkpoints(sharded=True), step_of) or 0


def newest(checkpoints: list[Path], read: Callable[[Path], Loaded]) -> Loaded | None:
    """What `read` returns for the last checkpoint that it can read, or None."""
    for path in reversed(checkpoints):
        try:
            return read(path)
        except Exception as error:  # a damaged file raises many kinds; an older one may still be good
            logger.warning("checkpoint %s cannot be read (%s); trying the one before", path, error)
    return None


def continued(config: Settings, before: Record | None) -> Settings:
    """A run's settings, with the precision and the share of images set aside that it began with."""
    if before is None:
        return replace(config, heldout_share=0.0) if config.heldout or config.stream else config
    precision = before.settings["precision"] if config.precision == "auto" else config.precision
    return replace(config, precision=precision, heldout_share=float(before.settings["heldout_share"]))


def require_same_settings(folder: Path, before: Record, config: Any) -> None:
    """Raises ValueError naming a setting that has another value now, and both values."""
    for name, was, now in differences(before.settings, to_dict(config)):
        raise ValueError(
            f"{folder}: cannot continue with another {name}: it was {was!r}, now {now!r}; leave the setting out, "
            "or choose another --out"
        )


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name and both values of each setting that differs and may not; settings that `before` lacks are left out."""
    found = []
    for name, value in now.items():
        if name not in before or name in MAY_CHANGE or (name, before[name]) == ("precision", "auto"):
            continue
        if isinstance(value, dict) and isinstance(before[name], dict):
            found += differences(before[name], value)
        elif before[name] != value and not (name == "init_from" and Path(str(before[name])) == Path(str(value))):
            found.append((name, before[name], value))
    return found


def identity_of(source: ImageSource | ImageStream | TokenCache | None) -> dict[str, Any] | None:
    """The identity of data as JSON keeps it; None without data."""
    return None if source is None else to_dict(data_identity(source))


def require_same_inputs(folder: Path, before: Record, now: dict[str, Any], config: LoopConfig) -> None:
    """Raises ValueError where a run would continue with other data, perceptual weights or another teacher."""
    if "data" not in before.inputs:
        logger.warning("%s: does not say what its data was; whether it is the same was not checked", folder)
        return
    was, is_now = before.inputs["data"], now["data"]
    if was != is_now:
        raise ValueError(
            f"{folder}: cannot continue on other data: {difference_of_data(was, is_now, config.data)}; "
            "give the data it began with, which may lie elsewhere, or choose another --out"
        )
    if before.inputs.get("perceptual") != now.get("perceptual"):
        raise ValueError(
            f"{folder}: cannot continue with other perceptual weights; give those it began with as "
            "--perceptual-weights, or choose another --out"
        )
    if before.inputs.get("teacher") != now.get("teacher"):
        raise ValueError(f"{folder}: cannot continue: the model whose decoder teaches is another one now")
    if before.inputs.get("heldout") != now.get("heldout"):
        logger.warning("%s: is measured on other held-out images from here on", folder)


def difference_of_data(was: dict[str, Any], now: dict[str, Any], place: str) -> str:
    """How two data sets differ, in words."""
    if was["class_names"] != now["class_names"]:
        gone = [name for name in was["class_names"] if name not in now["class_names"]]
        new = [name for name in now["class_names"] if name not in was["class_names"]]
        parts = [f"the class {name!r} is gone" for name in gone[:1]]
        parts += [f"the class {name!r} is new" for name in new[:1]]
        if parts:
            return f"of {place}, {' and '.join(parts)}"
        return f"the classes of {place} have another order"
    if was["count"] != now["count"]:
        return f"it had {was['count']} images, {place} holds {now['count']}"
    return f"{place} holds as many images, but of other names, sizes, labels or tokens"


class Metrics:
    """Figures as JSON lines and for TensorBoard; on resume, lines cut off or after the checkpoint are dropped."""

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / LOG
        if self.path.exists():
            kept = [line for line in self.lines() if line["step"] <= start] if start else []
            with complete_file(self.path) as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
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
        return read_json_lines(self.path)

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
