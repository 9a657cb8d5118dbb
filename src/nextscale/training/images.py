"""Training images by index or as a stream: what both stages read from."""

from __future__ import annotations

from collections.abc import Generator, Sized
from pathlib import Path
from typing import Any

from nextscale.config import read_json
from nextscale.data.loader import ImageBatch, ImageLoader, require_readable
from nextscale.data.source import ImageSource, describe, open_source
from nextscale.data.stream import ImageStream, Position, StreamLoader, open_stream
from nextscale.data.tokens import TokenCache
from nextscale.files import write_json
from nextscale.runtime import Processes
from nextscale.training.config import LoopConfig
from nextscale.training.run import RunFolder
from nextscale.training.split import set_aside


def open_images(config: LoopConfig) -> ImageSource | ImageStream:
    """The training images. Raises ValueError when they cannot be read."""
    if config.stream:
        return open_stream(config.data, classes=config.stream_classes, **columns(config))
    source = open_source(config.data, **columns(config))
    require_readable(source, limit=config.limit)
    return source


def images_apart(
    source: ImageSource | ImageStream, config: LoopConfig
) -> tuple[ImageSource | ImageStream, ImageSource | None]:
    """The images that are trained on, and those that are measured on: `heldout`, or a share that is set aside.

    What was set aside when a run began stays so where it is measured on other images later. Raises ValueError when
    held-out images cannot be read.
    """
    images, aside = (source, None) if isinstance(source, ImageStream) else set_aside(source, config.heldout_share)
    if config.heldout:
        aside = open_source(config.heldout, **columns(config))
        require_readable(aside, limit=config.limit)
    return images, aside


def described(source: TokenCache | ImageSource | ImageStream, aside: Sized | None, config: LoopConfig) -> str:
    """What a run trains and is measured on, and in which precision: the line that it begins with."""
    line = f"trains on {describe(source)}; computes in {config.precision}"
    if aside is not None and not config.heldout:
        line += f"; without --heldout, {len(aside)} of the images are set aside to measure on"
    return line


def columns(config: LoopConfig) -> dict[str, str]:
    """Columns that the settings name."""
    return {"label_column": config.label_column, "image_column": config.image_column}


def image_batches(
    images: ImageSource | ImageStream,
    config: LoopConfig,
    size: tuple[int, int],
    processes: Processes,
    *,
    start: int,
    position: Position | None,
) -> Generator[ImageBatch, None, None]:
    """Endless batches of this process from step `start`; a stream goes on from its `position`."""
    options: dict[str, Any] = {
        "size": size, "batch_size": config.batch_size, "seed": config.seed, "rank": processes.rank,
        "world": processes.world, "enlarge": config.enlarge, "flip": config.flip, "limit": config.limit,
    }  # fmt: skip
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
    """Where this process's stream stood at a step; None at the start. Raises ValueError for other processes."""
    if step == 0:
        return None
    file = position_file(run, step, processes.rank)
    noted: dict[str, Any] = read_json(file) if file.is_file() else {"world": 0}
    if noted["world"] != processes.world:
        raise ValueError(f"{run.path}: a stream continues only with as many processes as before")
    return noted["position"]
