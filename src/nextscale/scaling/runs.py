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
from dataclasses import replace
from pathlib import Path
from typing import Any

from nextscale.config import from_dict, read_json, read_json_lines, to_dict
from nextscale.data.source import ImageSource, open_source
from nextscale.data.tokens import TokenCache, is_token_cache, open_tokens
from nextscale.evaluation.cost import training_flops
from nextscale.families.config import family_presets
from nextscale.families.table import family
from nextscale.files import write_json
from nextscale.runtime import launched_processes
from nextscale.scaling.config import ScalingRun
from nextscale.training.config import OptimiserConfig, TransformerTraining, training_settings
from nextscale.training.run import LOG, identity_of, read_record
from nextscale.training.stage2 import train_transformer

logger = logging.getLogger("nextscale.scaling")

UNIT = 73_728
"""Parameters of the blocks of a model of depth 1; a model of depth d has d^3 times as many (paper, appendix)."""
SAME = ("steps", "batch_size", "heldout_images", "seed", "precision", "optimiser")
"""Settings that depths which are fitted together must share with what was asked for."""


def training_of(config: ScalingRun, depth: int) -> TransformerTraining:
    """The whole settings of one depth. Raises ValueError when there are fewer images than asked for."""
    there = len(opened(config.data, config))
    images = config.images or there
    if images > there:
        raise ValueError(f"data {config.data}: holds {there} images, {images} are asked for; each is to be fresh")
    steps = images // config.batch_size
    if steps < config.measurements:
        raise ValueError(f"{images} images are {steps} batches, too few for {config.measurements} measurements")
    every = steps // config.measurements
    rate = config.learning_rate * (4 / depth) ** config.rate_power
    model = replace(family_presets(config.kind)["small"], depth=depth, heads=depth)
    return from_dict(training_settings(config.kind), {
        "data": config.data, "tokenizer": config.tokenizer, "heldout": config.heldout, "model": model,
        "out": str(Path(config.out) / f"{config.kind}-d{depth}"), "steps": every * config.measurements,
        "sample_every": every, "checkpoint_every": max(1, every // 4), "heldout_images": config.heldout_images,
        "batch_size": config.batch_size, "seed": config.seed, "precision": config.precision, "device": config.device,
        "compile": config.compile, "top_k": 0, "top_p": 0.95,
        "label_column": config.label_column, "image_column": config.image_column,
        "optimiser": OptimiserConfig(learning_rate=rate, ema=config.ema, final=0.02, flat=0.1),
    })  # fmt: skip


def run_depths(config: ScalingRun) -> list[Path]:
    """Train every depth that is not done and that nobody else trains; returns the results that are there."""
    out = Path(config.out)
    if launched_processes().world > 1:
        raise ValueError("scaling runs train one depth per process; start one on each host instead of under torchrun")
    wanted = [(depth, training_of(config, depth)) for depth in sorted(config.depths)]  # complain first
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
            write_json(result, measured(config.kind, depth, training, Path(training.out)))
    return [path for depth, _ in wanted if (path := result_path(out, config.kind, depth)).is_file()]


def shared_precision(config: ScalingRun) -> str:
    """What was asked for; where that is `auto`, what the depths that are there were trained in."""
    if config.precision != "auto":
        return config.precision
    records = (read_record(folder) for folder in sorted(Path(config.out).glob(f"{config.kind}-d*")) if folder.is_dir())
    return next((record.settings["precision"] for record in records if record is not None), "auto")


def require_same(result: Path, training: TransformerTraining) -> None:
    """Raises ValueError where a depth that is done had other settings or data than what is asked for now."""
    before, now = read_record(Path(training.out)), to_dict(training)
    if before is None:
        raise ValueError(f"{result}: its run folder {training.out} is gone; choose another --out")
    for name in SAME:
        if before.settings[name] != now[name]:
            raise ValueError(
                f"{result}: was made with another {name} ({before.settings[name]}, now {now[name]}); "
                "choose another --out"
            )
    for name in ("data", "heldout"):
        if name in before.inputs and before.inputs[name] != identity_of(opened(now[name], training)):
            raise ValueError(f"{result}: was made with other {name} than {now[name]} holds now; choose another --out")


def opened(data: str, columns: ScalingRun | TransformerTraining) -> TokenCache | ImageSource:
    """Images, of the columns that the settings name, or tokens."""
    if is_token_cache(data):
        return open_tokens(data)
    return open_source(data, label_column=columns.label_column, image_column=columns.image_column)


def result_path(out: Path, kind: str, depth: int) -> Path:
    return out / f"{kind}-d{depth}.json"


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process may go ahead; others that share the folder see that it does."""
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
    """Write a claim that was not there, or take over that of a process of this host which is gone."""
    with suppress(FileExistsError), path.open("x") as file:
        file.write(own)
        return True
    gone = path.with_name(f"{path.name}-{own.replace(' ', '-')}")
    try:
        host, _, process = path.read_text().partition(" ")
        if host != socket.gethostname() or not process.isdigit() or alive(int(process)):
            return False
        path.rename(gone)  # of two that see it, one succeeds
        gone.unlink()
        with path.open("x") as file:
            file.write(own)
    except (FileNotFoundError, FileExistsError):
        return False  # another was quicker
    return True


def alive(process: int) -> bool:
    """Whether a process of this host runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def measured(kind: str, depth: int, training: TransformerTraining, run: Path) -> dict[str, Any]:
    """The point of one depth, and the curve that led there, from a finished run's metrics."""
    recorded = read_json(run / "config.json")
    model = from_dict(family(kind).config, recorded["model"])
    each = training_flops(model)
    curve = {}
    for values in read_json_lines(run / LOG):
        if "heldout_loss" in values:
            images = values["step"] * training.batch_size
            curve[values["step"]] = {
                "images": images, "flops": images * each,
                "loss": values["heldout_loss"], "loss_last": values["heldout_loss_last"],
                "error": 1 - values["heldout_accuracy"], "error_last": 1 - values["heldout_accuracy_last"],
            }  # fmt: skip
    points = [curve[step] for step in sorted(curve)]
    if not points:
        raise ValueError(f"{run / LOG}: holds no held-out measurement; remove {run} to train this depth again")
    return {
        "kind": kind, "depth": depth, "parameters": UNIT * depth**3, "tokens_per_image": model.schedule.length,
        "learning_rate": training.optimiser.learning_rate, "heldout_images": training.heldout_images,
        "seed": training.seed, **points[-1], "curve": points,
    }  # fmt: skip
