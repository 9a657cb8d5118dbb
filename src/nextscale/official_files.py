"""Files of the authors' models: the tokenizer and the transformer in them, whatever wraps them.

A published file is a flat state dict. Training leaves other things: a trainer's state with both parts, options and
optimiser ({"args": ..., "trainer": {"var_wo_ddp": ..., "vae_local": ...}}), `state_dict` and `model` around the
weights, an average of them (`ema`), names that begin with `module.` or hold `_orig_mod.`. Parts are therefore found
by names that only they have, at any depth and behind any prefix. Nothing in a file is run.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("nextscale.official")

State = dict[str, Tensor]

MARKS = {
    "tokenizer": ("quantize.embedding.weight", "encoder.conv_in.weight"),
    "transformer": ("pos_1LC", "class_emb.weight", "word_embed.weight"),
}
"""Names of tensors by which each part is known."""
HINTS = {"tokenizer": ", such as vae_ch160v4096z32.pth", "transformer": ", such as var_d16.pth"}
COMPILED = "_orig_mod."
"""What torch.compile puts into names."""
SHOWN = 6
"""Names that a refusal lists."""


@dataclass(frozen=True)
class Part:
    """A tokenizer or a transformer in a file."""

    kind: str
    place: str
    "Keys and prefix that lead to it; empty in a flat file."
    state: State

    @property
    def averaged(self) -> bool:
        return "ema" in self.place.lower()


def read_part(path: Path, kind: str) -> State:
    """The state dict of a file's tokenizer or transformer; what surrounds it is told.

    Of plain and averaged weights it is the plain ones. Raises ValueError that says what the file holds instead.
    """
    parts = read_parts(path)
    found = sorted((part for part in parts if part.kind == kind), key=lambda part: part.averaged)
    if not found:
        raise ValueError(f"{path}: holds a {parts[0].kind}, expected a {kind}{HINTS[kind]}")
    first, *others = found
    if first.place or others:
        left = f"; {', '.join(part.place or 'the plain names' for part in others)} left aside" if others else ""
        logger.info("%s: the %s's weights are those of %s%s", path, kind, first.place or "the plain names", left)
    return first.state


def read_parts(path: Path) -> list[Part]:
    """The parts in a file, at least one. Raises ValueError that says what was found where there is none."""
    content = load(path)
    parts = list(found_parts(content))
    if not parts:
        raise ValueError(f"{path}: holds no tokenizer or transformer of the authors': {contents(content)}")
    return parts


def kinds_in(path: Path) -> set[str]:
    """Which parts a file holds. Raises ValueError as `read_parts`."""
    return {part.kind for part in read_parts(path)}


def load(path: Path) -> Any:
    """What torch saved in a file, memory-mapped. Raises ValueError where it cannot be read; runs no code."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # options; it only holds values
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: {refusal(str(error) or type(error).__name__)}") from error


def refusal(message: str) -> str:
    """What torch says of a file it does not read, without its advice to read it all the same."""
    if found := re.search(r"GLOBAL (\S+)", message):
        return (
            f"holds not only tensors and plain values but also {found[1]}, which could run code and is not read; "
            "save the weights alone, where they were made"
        )
    told = re.search(r"WeightsUnpickler error: (.*)", message)
    reason = (told[1] if told else message.splitlines()[0]).split(". ")[0].strip()
    return f"not a torch state dict ({reason or 'damaged, or of another format'})"


def found_parts(content: Any, path: str = "") -> Iterator[Part]:
    """Every part in nested mappings."""
    if not isinstance(content, Mapping):
        return
    named = {str(name).replace(COMPILED, ""): value for name, value in content.items() if isinstance(value, Tensor)}
    prefixes = {
        (kind, name[: -len(mark)])
        for kind, marks in MARKS.items()
        for mark in marks
        for name in named
        if name == mark or name.endswith(f".{mark}")
    }
    for kind, prefix in sorted(prefixes):
        inner = [other for _, other in prefixes if other != prefix and other.startswith(prefix)]
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in named.items()
            if name.startswith(prefix) and not any(name.startswith(other) for other in inner)
        }
        yield Part(kind, (path + prefix).removesuffix("."), state)
    for name, value in content.items():
        yield from found_parts(value, f"{path}{name}.")


def contents(content: Any) -> str:
    """What a file holds, in a few words."""
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    names = [str(name) for name in content]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN]) or 'nothing'}{more} at the top; number of tensors: {count_tensors(content)}"


def count_tensors(content: Any) -> int:
    """Tensors in nested mappings and lists."""
    if isinstance(content, Mapping):
        return sum(map(count_tensors, content.values()))
    if isinstance(content, (list, tuple)):
        return sum(map(count_tensors, content))
    return int(isinstance(content, Tensor))
