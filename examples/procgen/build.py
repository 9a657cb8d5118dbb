"""Build the Procgen image set: 16 games as 16 classes, 64x64 RGB, one frame per level.

    python examples/procgen/build.py --install --out data/procgen

writes `train/*.parquet` and `heldout/*.parquet` with the columns `image` (PNG) and `label`. Level i of a
game is train image i; held-out image i is level 1,000,000 + i; the same command writes the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import shutil
import subprocess
import sys
import types
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GAMES = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)  # fmt: skip
HELDOUT_START = 1_000_000
"""Levels below are for training, this one and the following million for measuring."""
ROWS_PER_SHARD = 20_000
ACTIONS = 15
MAX_RANDOM_STEPS = 8
PACKAGES = ("procgen-mirror", "gym3", "cffi", "imageio", "pycparser", "filelock")


@dataclass(frozen=True)
class Shard:
    """One parquet file to write."""

    path: Path
    games: np.ndarray  # (rows,) index into GAMES
    levels: np.ndarray  # (rows,) level seed


def stub_viewers() -> None:
    """Empty stand-ins for the viewer modules that procgen imports and frames do not need."""
    for name in ("glfw", "moderngl", "gym", "gym.envs", "gym.envs.registration", "gym.spaces"):
        sys.modules.setdefault(name, types.ModuleType(name))
    gym: Any = sys.modules["gym"]
    gym.Env = gym.Wrapper = object
    gym.spaces, gym.envs = sys.modules["gym.spaces"], sys.modules["gym.envs"]
    registration: Any = sys.modules["gym.envs.registration"]
    registration.register = lambda *args, **kwargs: None


def render(game: str, level: int) -> np.ndarray:
    """A frame of a level, (64, 64, 3) uint8, after a few random actions seeded by the level."""
    from procgen import ProcgenGym3Env  # pyright: ignore[reportMissingImports]

    environment = ProcgenGym3Env(num=1, env_name=game, start_level=level, num_levels=1, rand_seed=level, num_threads=0)
    random = np.random.default_rng([GAMES.index(game), level])
    for action in random.integers(0, ACTIONS, size=random.integers(1, MAX_RANDOM_STEPS + 1)):
        environment.act(np.array([action], dtype=np.int32))
    return environment.observe()[1]["rgb"][0]


def png(frame: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def write_shard(shard: Shard) -> int:
    """Render and write one shard; returns its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Image

    stub_viewers()
    images = [
        {"bytes": png(render(GAMES[game], int(level))), "path": f"{GAMES[game]}-{level}.png"}
        for game, level in zip(shard.games, shard.levels, strict=True)
    ]
    features = Features({"image": Image(), "label": ClassLabel(names=list(GAMES))})
    table = pa.table({"image": images, "label": shard.games.astype(np.int64)}, schema=features.arrow_schema)
    pq.write_table(table, shard.path, row_group_size=1000, compression="none")
    return len(images)


def plan(folder: Path, per_class: int, first_level: int, seed: int) -> list[Shard]:
    """Shards of a split, every one mixing the games."""
    games = np.repeat(np.arange(len(GAMES)), per_class)
    levels = np.tile(np.arange(first_level, first_level + per_class), len(GAMES))
    order = np.random.default_rng(seed).permutation(len(games))
    parts = np.array_split(order, max(1, -(-len(order) // ROWS_PER_SHARD)))
    return [Shard(folder / f"{i:05d}.parquet", games[part], levels[part]) for i, part in enumerate(parts)]


def build_split(out: Path, split: str, per_class: int, first_level: int, processes: int) -> None:
    final, partial = out / split, out / f".{split}.partial"
    if final.exists():
        print(f"{final} is there already: left as it is")
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shards = plan(partial, per_class, first_level, seed=first_level)
    total, done = per_class * len(GAMES), 0
    with ProcessPoolExecutor(processes) as pool:
        for rows in pool.map(write_shard, shards):
            done += rows
            print(f"{split}: {done:,} of {total:,} images", flush=True)
    partial.rename(final)


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/procgen"), help="folder to write")
    parser.add_argument("--per-class", type=int, default=16_000, help="training images of each game")
    parser.add_argument("--heldout-per-class", type=int, default=1_250, help="held-out images of each game")
    parser.add_argument("--processes", type=int, default=2, help="processes that render")
    parser.add_argument("--install", action="store_true", help="install procgen-mirror and gym3 first")
    options = parser.parse_args()
    for name in ("per_class", "heldout_per_class"):
        if not 1 <= getattr(options, name) <= HELDOUT_START:
            fail(f"--{name.replace('_', '-')} must be between 1 and {HELDOUT_START:,}")
    if options.install:
        # Their declared pins (numpy < 2, gym < 1) are stale, hence no dependencies.
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", *PACKAGES], check=True)
    if importlib.util.find_spec("procgen") is None or importlib.util.find_spec("gym3") is None:
        fail("the package procgen is not installed; run this command again with --install")
    try:
        build_split(options.out, "heldout", options.heldout_per_class, HELDOUT_START, options.processes)
        build_split(options.out, "train", options.per_class, 0, options.processes)
    except OSError as error:
        fail(f"{options.out} cannot be written: {error.strerror or error}; choose another --out")
    print(f"wrote {options.out}/train and {options.out}/heldout")


if __name__ == "__main__":
    main()
