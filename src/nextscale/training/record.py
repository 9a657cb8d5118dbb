"""What a run folder says of its run: its settings, and what they were applied to.

    RUN/config.json  all settings; `--config RUN/config.json` does the same again
    RUN/run.json     the command, and the identities of the data, the held-out data and the perceptual network

A run continues with what it recorded. Places may be spelled otherwise or be elsewhere by then: identities decide.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from nextscale.checkpoint import CONFIG, RUN
from nextscale.config import read_json, to_dict
from nextscale.data.identity import data_identity
from nextscale.data.source import ImageSource
from nextscale.data.stream import ImageStream
from nextscale.data.tokens import TokenCache
from nextscale.files import write_json
from nextscale.training.config import LoopConfig

logger = logging.getLogger("nextscale.training")

Settings = TypeVar("Settings", bound=LoopConfig)
MAY_CHANGE = frozenset((
    "data", "label_column", "image_column", "heldout", "heldout_images", "decoded_images", "tokenizer",
    "perceptual_weights", "out", "device", "keep", "checkpoint_every", "log_every", "sample_every", "compile",
    "export", "limit", "accumulate", "checkpointing", "guidance", "top_k", "top_p",
))  # fmt: skip
"""Settings that may differ between a run and its continuation: they do not change what is learned, or identities
tell whether they do."""


@dataclass(frozen=True)
class Record:
    """What an earlier start of a run wrote."""

    settings: dict[str, Any]
    command: str = ""
    "tokenizer, or a kind of model; empty where an earlier version wrote none."
    inputs: dict[str, Any] = field(default_factory=dict)
    "Identities by name: data, heldout, perceptual."


def read_record(folder: Path) -> Record | None:
    """The record of a run folder; None where no run began. Raises ValueError for a damaged one."""
    if not (folder / CONFIG).is_file():
        return None
    settings = read_json(folder / CONFIG)
    if not {"data", "out", "steps"} <= set(settings):
        raise ValueError(f"{folder}: holds a config.json that is not a run's; choose another --out")
    settings.setdefault("heldout_share", 0.0)  # earlier versions trained on all images
    about = read_json(folder / RUN) if (folder / RUN).is_file() else {}
    return Record(settings, about.get("command", ""), about.get("inputs", {}))


def write_record(folder: Path, config: LoopConfig, command: str, inputs: dict[str, Any]) -> None:
    """Record what a run is."""
    write_json(folder / RUN, {"command": command, "inputs": inputs})
    write_json(folder / CONFIG, to_dict(config))


def continued(config: Settings, before: Record | None) -> Settings:
    """A run's settings, with the precision and the share of images set aside that it began with."""
    if before is None:
        return replace(config, heldout_share=0.0) if config.heldout or config.stream else config
    precision = before.settings["precision"] if config.precision == "auto" else config.precision
    return replace(config, precision=precision, heldout_share=float(before.settings["heldout_share"]))


def require_same_settings(folder: Path, before: Record, config: LoopConfig) -> None:
    """Raises ValueError naming a setting that has another value now, and both values."""
    for name, was, now in differences(before.settings, to_dict(config)):
        raise ValueError(
            f"{folder}: cannot continue with another {name}: it was {was!r}, now {now!r}; leave the setting out, "
            "or choose another --out"
        )


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name and both values of each setting that differs and may not; one that was not known then has no value."""
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
    """Raises ValueError where a run would go on with other data or another perceptual network than it began with."""
    if "data" not in before.inputs:
        logger.warning("%s: does not say what its data was; whether it is the same was not checked", folder)
        return
    was, is_now = before.inputs["data"], now["data"]
    if was != is_now:
        raise ValueError(
            f"{folder}: cannot continue on other data: {told_apart(was, is_now, config.data)}; "
            "give the data it began with, which may lie elsewhere, or choose another --out"
        )
    if before.inputs.get("perceptual") != now.get("perceptual"):
        raise ValueError(
            f"{folder}: cannot continue with other perceptual weights; give those it began with as "
            "--perceptual-weights, or choose another --out"
        )
    if before.inputs.get("heldout") != now.get("heldout"):
        logger.warning("%s: is measured on other held-out images from here on", folder)


def told_apart(was: dict[str, Any], now: dict[str, Any], place: str) -> str:
    """How two data sets differ, in words."""
    if was["class_names"] != now["class_names"]:
        gone = [name for name in was["class_names"] if name not in now["class_names"]]
        new = [name for name in now["class_names"] if name not in was["class_names"]]
        parts = [f"the class {name!r} is gone" for name in gone[:1]] + [
            f"the class {name!r} is new" for name in new[:1]
        ]
        if parts:
            return f"of {place}, {' and '.join(parts)}"
        return f"the classes of {place} have another order"
    if was["count"] != now["count"]:
        return f"it had {was['count']} images, {place} holds {now['count']}"
    return f"{place} holds as many images, but of other names, sizes, labels or tokens"
