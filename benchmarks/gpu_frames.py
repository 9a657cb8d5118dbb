"""Frames in great numbers, rendered by all cores: Procgen's where its renderer is installed, else shapes.

A process plays 64 levels of a game side by side and begins new ones by Procgen's reset action, at some 3,000 frames of
64 x 64 a second. Larger frames are reduced from the 512 x 512 that people see, rendered at a twentieth of that
rate. Training levels are below 1,000,000, held-out ones from there on; of each level the frame after a few random
actions is kept.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from gpu_pictures import SHAPES, picture

LEVELS = 1_000_000
TOGETHER = 64
"""Levels that a process plays side by side."""
NATIVE = 64
"""Pixels of a side that Procgen renders for agents; people see 512."""


def has_procgen() -> bool:
    return all(importlib.util.find_spec(name) for name in ("procgen", "gym3"))


def build_script() -> ModuleType:
    """examples/procgen/build.py, which knows the games."""
    path = Path(__file__).parents[1] / "examples" / "procgen" / "build.py"
    spec = importlib.util.spec_from_file_location("procgen_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["procgen_build"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def class_names(procgen: bool) -> tuple[str, ...]:
    return build_script().GAMES if procgen else SHAPES


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Frames of one class."""

    path: Path
    "A .npy file (frames, side, side, 3) uint8, or a folder of PNG files."
    label: int
    number: int
    "Tells chunks of a class apart: it seeds their levels and actions."
    frames: int
    side: int
    heldout: bool
    procgen: bool

    def render(self) -> np.ndarray:
        """(frames, side, side, 3) uint8, a function of the chunk."""
        if not self.procgen:
            first = (LEVELS if self.heldout else 0) + self.number * self.frames
            images = [picture(self.label, first + i, self.side) for i in range(self.frames)]
            return np.stack([np.asarray(image) for image in images])
        found: list[np.ndarray] = []
        for images in self.rounds():
            found.append(images)
            if sum(map(len, found)) >= self.frames:
                break
        return np.concatenate(found)[: self.frames]

    def rounds(self) -> Iterator[np.ndarray]:
        """A frame of each of `TOGETHER` levels; two of each level where frames are large and costly."""
        build = build_script()
        build.stub_viewers()
        from procgen import ProcgenGym3Env  # pyright: ignore[reportMissingImports]

        seed = 2 * (len(build.GAMES) * self.number + self.label) + self.heldout
        large: Any = {"render_mode": "rgb_array"} if self.side > NATIVE else {}
        environment: Any = ProcgenGym3Env(
            num=TOGETHER, env_name=build.GAMES[self.label], start_level=LEVELS if self.heldout else 0,
            num_levels=LEVELS, rand_seed=seed, num_threads=0, **large,
        )  # fmt: skip
        random = np.random.default_rng(seed)
        while True:
            environment.act(np.full(TOGETHER, -1, dtype=np.int32))
            for _ in range(2 if large else 1):
                for _ in range(random.integers(1, 3 if large else build.MAX_RANDOM_STEPS + 1)):
                    environment.act(random.integers(0, build.ACTIONS, TOGETHER).astype(np.int32))
                yield reduced(environment, self.side)

    def write(self) -> None:
        """Render and write; the chunk appears only when complete."""
        if self.path.exists():
            return
        partial = self.path.with_name(f".{self.path.name}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, self.render())
        else:
            partial.mkdir(exist_ok=True)
            for i, frame in enumerate(self.render()):
                Image.fromarray(frame).save(partial / f"{self.number:05d}-{i:05d}.png", compress_level=1)
        partial.rename(self.path)


def reduced(environment: Any, side: int) -> np.ndarray:
    """What the levels show, (levels, side, side, 3) uint8; large frames by averaging squares of pixels."""
    if side <= NATIVE:
        frames = environment.observe()[1]["rgb"]
    else:
        frames = np.stack([info["rgb"] for info in environment.get_info()])
    times = frames.shape[1] // side
    if times == 1:
        return frames.copy()
    return frames.reshape(len(frames), side, times, side, times, 3).mean((2, 4)).round().astype(np.uint8)


def arrays(folder: Path, per_class: int, *, side: int, procgen: bool, chunk: int = 8192) -> list[Chunk]:
    """Chunks of training frames as arrays, all classes in turn."""
    names, size = class_names(procgen), min(chunk, per_class)
    return [
        Chunk(
            path=folder / f"{number:04d}-{label:02d}.npy", label=label, number=number, frames=size, side=side,
            heldout=False, procgen=procgen,
        )
        for number in range(per_class // size)
        for label in range(len(names))
    ]  # fmt: skip


def pictures(folder: Path, per_class: int, *, side: int, procgen: bool, heldout: bool) -> list[Chunk]:
    """Chunks as PNG files, FOLDER/CLASS/CHUNK/*.png: a data set for every command."""
    parts = max(1, per_class // 128)
    return [
        Chunk(
            path=folder / name / f"{number:04d}", label=label, number=10_000 + number, frames=per_class // parts,
            side=side, heldout=heldout, procgen=procgen,
        )
        for number in range(parts)
        for label, name in enumerate(class_names(procgen))
    ]  # fmt: skip


def submit(pool: ProcessPoolExecutor, chunks: list[Chunk]) -> list[Future[None]]:
    """Write all chunks in the background."""
    return [pool.submit(chunk.write) for chunk in chunks]
