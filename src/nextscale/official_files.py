"""Find the tokenizer and the transformer in files of the authors' code, published or left by training.

A published file is a flat state dict. A file left by training may hold a trainer's state with both parts, options and
optimiser ({"args": ..., "trainer": {"var_wo_ddp": ..., "vae_local": ...}}), weights below `state_dict` or `model`,
averaged weights (`ema`), and names with the prefix `module.` or with `_orig_mod.`. A part is therefore recognised by
names of tensors that only it has, at any depth and behind any prefix. No code in a file is run.
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
"""Names of tensors by which each part is recognised."""
HINTS = {"tokenizer": ", such as vae_ch160v4096z32.pth", "transformer": ", such as var_d16.pth"}
COMPILED = "_orig_mod."
"""Inserted into names by torch.compile."""
SHOWN = 6
"""Number of names listed in an error message."""


@dataclass(frozen=True)
class Part:
    """A tokenizer or a transformer in a file."""

    kind: str
    place: str
    "Keys and prefix of its names; empty in a flat file."
    state: State

    @property
    def averaged(self) -> bool:
        return "ema" in self.place.lower()


def read_part(path: Path, kind: str) -> State:
    """The state dict of the tokenizer or transformer in a file; where it was found is logged, unless the file is flat.

    Plain weights are preferred to averaged ones. Raises ValueError that says what the file holds instead.
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
    """The parts in a file. Raises ValueError, which says what the file holds, where there are none."""
    content = load(path)
    parts = list(found_parts(content))
    if not parts:
        raise ValueError(f"{path}: holds no tokenizer or transformer of the authors': {contents(content)}")
    return parts


def kinds_in(path: Path) -> set[str]:
    """The kinds of the parts in a file. Raises ValueError as `read_parts`."""
    return {part.kind for part in read_parts(path)}


def load(path: Path) -> Any:
    """The content of a file that torch saved, memory-mapped; runs no code. Raises ValueError."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options, which are plain values
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: {refusal(str(error) or type(error).__name__)}") from error


def refusal(message: str) -> str:
    """Torch's reason for not reading a file, without its advice to read it unsafely."""
    if found := re.search(r"GLOBAL (\S+)", message):
        return (
            f"holds not only tensors and plain values but also {found[1]}, which could run code and is not read; "
            "save the weights alone, where they were made"
        )
    detail = re.search(r"WeightsUnpickler error: (.*)", message)
    reason = (detail[1] if detail else message.splitlines()[0]).split(". ")[0].strip()
    return f"not a torch state dict ({reason or 'damaged, or of another format'})"


def found_parts(content: Any, path: str = "") -> Iterator[Part]:
    """The parts in nested mappings; `path` leads to this one."""
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
    """A short description of what a file holds."""
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    names = [str(name) for name in content]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN]) or 'nothing'}{more} at the top; number of tensors: {count_tensors(content)}"


def count_tensors(content: Any) -> int:
    """Number of tensors in nested mappings and lists."""
    if isinstance(content, Mapping):
        return sum(map(count_tensors, content.values()))
    if isinstance(content, (list, tuple)):
        return sum(map(count_tensors, content))
    return int(isinstance(content, Tensor))
