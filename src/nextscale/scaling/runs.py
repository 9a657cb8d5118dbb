"""`nextscale scaling run`: one training per depth, each over the same images once.

    OUT/KIND-dDEPTH/             a run folder
    OUT/KIND-dDEPTH.json         what it measured, written at its end
    OUT/KIND-dDEPTH.claim        who trains it now

Hosts that share OUT take depths that nobody has claimed.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from nextscale.bench.cost import training_flops
from nextscale.config import from_dict, read_json, read_json_lines, to_dict
from nextscale.families import family
from nextscale.families.config import family_presets
from nextscale.files import write_json
from nextscale.runtime import launched_processes
from nextscale.scaling.config import ScalingRun, require_same_settings
from nextscale.scaling.fits import UNIT
from nextscale.training.config import OptimiserConfig, TransformerTraining, training_settings
from nextscale.training.images import open_indexed
from nextscale.training.run import LOG, identity_of, read_record
from nextscale.training.stage2 import train_transformer

logger = logging.getLogger("nextscale.scaling")

SAME = ("steps", "batch_size", "heldout_images", "seed", "precision", "optimiser")
"""Settings that depths which are fitted together must share with what was asked for."""


def training_of_depth(config: ScalingRun, depth: int) -> TransformerTraining:
    """The training of one depth. Raises ValueError when the data has fewer images than asked for."""
    there = len(open_indexed(config.data, config))
    images = config.images or there
    if images > there:
        raise ValueError(f"data {config.data}: holds {there} images, {images} are asked for; each is to be fresh")
    steps = images // config.batch_size
    if steps < config.measurements:
        raise ValueError(f"{images} images are {steps} batches, too few for {config.measurements} measurements")
    every = steps // config.measurements
    rate = config.learning_rate * (4 / depth) ** config.rate_power
    model = replace(family_presets(config.kind)["small"], depth=depth, heads=depth)
    kind = training_settings(config.kind)
    same = {field.name: getattr(config, field.name) for field in fields(kind) if hasattr(config, field.name)}
    own: dict[str, Any] = {"model": model, "out": str(Path(config.out) / f"{config.kind}-d{depth}")}
    own |= {"steps": every * config.measurements, "sample_every": every, "checkpoint_every": max(1, every // 4)}
    own |= {"optimiser": OptimiserConfig(learning_rate=rate, ema=config.ema, final=0.02, flat=0.1)}
    return from_dict(kind, same | own | {"top_k": 0, "top_p": 0.95})


def run_depths(config: ScalingRun) -> list[Path]:
    """Train every depth that is not done and that no other process trains; returns all results that exist."""
    out = Path(config.out)
    if launched_processes().world > 1:
        raise ValueError("scaling runs train one depth per process; start one on each host instead of under torchrun")
    wanted = [(depth, training_of_depth(config, depth)) for depth in sorted(config.depths)]  # raises first
    for depth, training in wanted:
        training = replace(training, precision=shared_precision(config))
        result = result_path(out, config.kind, depth)
        if result.is_file():
            require_same(result, training)
            logger.info("%s is done", result.stem)
            continue
        with claimed(result.with_suffix(".claim")) as mine:
            if not mine:
                logger.info("%s is trained elsewhere: %s names the process", result.stem, result.with_suffix(".claim"))
                continue
            train_transformer(training, resume=True)
            write_json(result, result_of_depth(config.kind, depth, training))
    return [path for depth, _ in wanted if (path := result_path(out, config.kind, depth)).is_file()]


def shared_precision(config: ScalingRun) -> str:
    """The precision asked for; for `auto`, that in which the other depths were trained, if there are any."""
    if config.precision != "auto":
        return config.precision
    records = (read_record(folder) for folder in sorted(Path(config.out).glob(f"{config.kind}-d*")) if folder.is_dir())
    return next((record.settings["precision"] for record in records if record is not None), "auto")


def require_same(result: Path, training: TransformerTraining) -> None:
    """Raises ValueError where a depth that is done was trained with other settings or data than asked for now."""
    before, now = read_record(Path(training.out)), to_dict(training)
    if before is None:
        raise ValueError(f"{result}: its run folder {training.out} is gone; choose another --out")
    require_same_settings(result, before.settings, {name: now[name] for name in SAME})
    for name in ("data", "heldout"):
        if name in before.inputs and before.inputs[name] != identity_of(open_indexed(now[name], training)):
            raise ValueError(f"{result}: was made with other {name} than {now[name]} holds now; choose another --out")


def result_path(out: Path, kind: str, depth: int) -> Path:
    return out / f"{kind}-d{depth}.json"


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process may train; others that share the folder see the claim and leave the depth to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{socket.gethostname()} {os.getpid()}"
    mine = _claim(path, own)
    try:
        yield mine
    finally:
        if mine:
            with suppress(OSError):
                path.unlink()


def _claim(path: Path, own: str) -> bool:
    """Write a new claim, or take over the claim of a process of this host that has ended; whether either succeeded."""
    with suppress(FileExistsError), path.open("x") as file:
        file.write(own)
        return True
    gone = path.with_name(f"{path.name}-{own.replace(' ', '-')}")
    try:
        host, _, process = path.read_text().partition(" ")
        if host != socket.gethostname() or not process.isdigit() or alive(int(process)):
            return False
        path.rename(gone)  # of two processes that try, one succeeds
        gone.unlink()
        with path.open("x") as file:
            file.write(own)
    except (FileNotFoundError, FileExistsError):
        return False  # another was quicker
    return True


def alive(process: int) -> bool:
    """Whether a process of this host is running."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def result_of_depth(kind: str, depth: int, training: TransformerTraining) -> dict[str, Any]:
    """The figures of one depth at the end of its training, and their curve until then, from the run's metrics."""
    run = Path(training.out)
    model = from_dict(family(kind).config, read_json(run / "config.json")["model"])
    each = training_flops(model)
    curve = {}
    for values in read_json_lines(run / LOG):
        if "heldout_loss" in values:
            images = values["step"] * training.batch_size
            point = {"images": images, "flops": images * each}
            point |= {"loss": values["heldout_loss"], "loss_last": values["heldout_loss_last"]}
            point |= {"error": 1 - values["heldout_accuracy"], "error_last": 1 - values["heldout_accuracy_last"]}
            curve[values["step"]] = point
    points = [curve[step] for step in sorted(curve)]
    if not points:
        raise ValueError(f"{run / LOG}: holds no held-out measurement; remove {run} to train this depth again")
    about = {"kind": kind, "depth": depth, "parameters": UNIT * depth**3, "tokens_per_image": model.schedule.length}
    about |= {"learning_rate": training.optimiser.learning_rate, "heldout_images": training.heldout_images}
    return about | {"seed": training.seed, **points[-1], "curve": points}
