"""What both stages read: images by index, streams and token caches; what is set aside; where a stream stands."""

from __future__ import annotations

from collections.abc import Generator, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nextscale.config import read_json
from nextscale.data.loader import ImageBatch, ImageLoader, require_readable
from nextscale.data.source import ImageSource, describe, open_source
from nextscale.data.stream import ImageStream, Position, StreamLoader, open_stream
from nextscale.data.tokens import TokenCache, is_token_cache, open_tokens
from nextscale.files import write_json
from nextscale.runtime import Processes, resolve_device
from nextscale.settings import NamesColumns
from nextscale.training.config import LoopConfig
from nextscale.training.run import RunFolder

MOST = 512
"""Images set aside at most: more make the figures hardly more exact."""
Indexed = TypeVar("Indexed", bound=ImageSource | TokenCache)
Samples = TokenCache | ImageSource | ImageStream


def open_samples(config: LoopConfig, tokenizer: str = "") -> Samples:
    """The training data: images, or a token cache of the tokenizer with this fingerprint. Raises ValueError."""
    if tokenizer and is_token_cache(config.data):
        return open_tokens(config.data, tokenizer=tokenizer, **config.captions)
    columns = config.columns | config.captions
    if config.stream:
        return open_stream(config.data, classes=config.stream_classes, **columns)
    source = open_source(config.data, **columns)
    require_readable(source, limit=config.limit)
    return source


def open_indexed(data: str, config: NamesColumns) -> TokenCache | ImageSource:
    """Tokens of any tokenizer, or images, nothing of them checked. Raises ValueError."""
    return open_tokens(data) if is_token_cache(data) else open_source(data, **config.columns)


def samples_apart(
    source: Samples, config: LoopConfig, tokenizer: str = ""
) -> tuple[Samples, TokenCache | ImageSource | None]:
    """What is trained on, and what is held out: `heldout`, or a share of the data; nothing of a stream.

    What was set aside when a run began stays so where it is measured on other images later. Raises ValueError when
    held-out images cannot be read.
    """
    samples, aside = (source, None) if isinstance(source, ImageStream) else set_aside(source, config.heldout_share)
    if config.heldout:
        aside = open_samples(replace(config, data=config.heldout, stream=False), tokenizer)
        assert not isinstance(aside, ImageStream)
    return samples, aside


def set_aside(source: Indexed, share: float) -> tuple[Indexed, Indexed | None]:
    """What is trained on and what is held out: a share of the images, at least 1 and at most 512.

    Which images depends on their number alone, so that both stages and all seeds leave out the same. Nothing is set
    aside of a single image, or with a share of 0.
    """
    count = min(MOST, max(1, round(share * len(source))), len(source) - 1) if share else 0
    if count < 1:
        return source, None
    places = np.arange(len(source)) if isinstance(source, ImageSource) else np.asarray(source.rows["index"][:])
    chance = np.random.default_rng(0).random(int(places.max()) + 1)[places]  # of an image, whoever its neighbours are
    aside = np.zeros(len(source), dtype=bool)
    aside[np.argsort(chance, kind="stable")[:count]] = True
    return part(source, ~aside), part(source, aside)


def part(source: Indexed, chosen: np.ndarray) -> Indexed:
    """The images of a source that a mask (N,) names, in order."""
    indices = np.flatnonzero(chosen)
    rows: Any = source.rows.select(indices) if hasattr(source.rows, "select") else [source.rows[i] for i in indices]
    captions = None if source.captions is None else source.captions.part(indices)
    if isinstance(source, ImageSource):
        labels = None if source.labels is None else np.asarray(source.labels)[indices]
        return replace(source, rows=rows, labels=labels, captions=captions)
    return replace(source, rows=rows, captions=captions)


def spread(length: int, most: int) -> np.ndarray:
    """Indices of up to `most` of `length` images, evenly spread: data sets are ordered by class."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).astype(np.int64))


def first_line(source: Samples, aside: Sized | None, config: LoopConfig) -> str:
    """The line that a run begins with: its data, the share that is held out, and the precision."""
    line = f"trains on {describe(source)}; computes in {config.precision}"
    if aside is not None and not config.heldout:
        line += f"; without --heldout, {len(aside)} of the images are set aside to measure on"
    return line


def image_batches(
    images: ImageSource | ImageStream,
    config: LoopConfig,
    size: tuple[int, int],
    processes: Processes,
    *,
    start: int,
    position: Position | None,
) -> Generator[ImageBatch, None, None]:
    """Endless batches of this process from step `start`; a stream continues from its `position`."""
    names = ("batch_size", "seed", "enlarge", "flip", "limit")
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    options |= {"size": size, "rank": processes.rank, "world": processes.world}
    options |= {"pinned": resolve_device(config.device).type == "cuda"}
    if isinstance(images, ImageStream):
        return StreamLoader(stream=images, **options).batches(position)
    return ImageLoader(source=images, **options).batches(start)


def position_file(run: RunFolder, step: int, rank: int) -> Path:
    return run.path / "checkpoints" / f"stream-{step:08d}-{rank:05d}.json"


def save_position(run: RunFolder, step: int, processes: Processes, position: Position | None) -> None:
    """Note where this process's stream stands at a step, before the checkpoint of that step is written."""
    if position is None:
        return
    write_json(position_file(run, step, processes.rank), {"world": processes.world, "position": position})
    kept = {int(path.name[5:13]) for sharded in (False, True) for path in run.checkpoints(sharded=sharded)} | {step}
    for file in (run.path / "checkpoints").glob(f"stream-????????-{processes.rank:05d}.json"):
        if int(file.name[7:15]) not in kept:
            file.unlink(missing_ok=True)


def load_position(run: RunFolder, step: int, processes: Processes) -> Position | None:
    """Where this process's stream stood at a step; None at the start.

    Raises ValueError where a run of another number of processes wrote it.
    """
    if step == 0:
        return None
    file = position_file(run, step, processes.rank)
    noted: dict[str, Any] = read_json(file) if file.is_file() else {"world": 0}
    if noted["world"] != processes.world:
        raise ValueError(f"{run.path}: a stream continues only with as many processes as before")
    return noted["position"]
