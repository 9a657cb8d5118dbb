"""The scripts that build image sets."""

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nextscale.data.source import open_source

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_script", EXAMPLES / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_script"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_idx(path: Path, values: np.ndarray) -> None:
    header = np.array([2048 + values.ndim, *values.shape], dtype=">i4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 12), ("t10k", 5)):
        write_idx(tmp_path / "idx" / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(tmp_path / "idx" / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return tmp_path / "idx"


def test_fashion_mnist(tmp_path: Path, idx: Path) -> None:
    done = run("fashion_mnist/build.py", "--idx", str(idx), "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    source = open_source(tmp_path / "a" / "train")
    assert len(source) == 12
    assert source.class_names[9] == "ankle boot"
    images = np.frombuffer(gzip.decompress((idx / "train-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    for row in range(12):
        number = int(source.name(row).removeprefix("train-").removesuffix(".png"))
        image, label = source.read(row)
        assert label == number % 10
        assert np.array_equal(np.asarray(image)[..., 0], images.reshape(12, 28, 28)[number])
    assert len(open_source(tmp_path / "a" / "heldout")) == 5
    run("fashion_mnist/build.py", "--idx", str(idx), "--out", str(tmp_path / "b"))
    one, two = ((tmp_path / name / "train" / "00000.parquet").read_bytes() for name in "ab")
    assert one == two
    again = run("fashion_mnist/build.py", "--idx", str(idx), "--out", str(tmp_path / "a"))
    assert "is there already" in again.stdout


def test_fashion_mnist_refuses_other_files(tmp_path: Path, idx: Path) -> None:
    (idx / "train-images-idx3-ubyte.gz").write_bytes((idx / "train-labels-idx1-ubyte.gz").read_bytes())
    done = run("fashion_mnist/build.py", "--idx", str(idx), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "not the idx file it should be" in done.stderr
    assert not (tmp_path / "out" / "train").exists()
    missing = run("fashion_mnist/build.py", "--idx", str(tmp_path), "--out", str(tmp_path / "out"))
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1


def test_procgen_splits_share_no_level(tmp_path: Path) -> None:
    build = load("procgen/build.py")
    train = build.plan(tmp_path, 50, 0, seed=0)
    heldout = build.plan(tmp_path, 20, build.HELDOUT_START, seed=build.HELDOUT_START)
    pairs = {(int(g), int(v)) for shard in train for g, v in zip(shard.games, shard.levels, strict=True)}
    assert len(pairs) == 50 * 16
    assert max(level for _, level in pairs) < build.HELDOUT_START
    assert min(int(level) for shard in heldout for level in shard.levels) >= build.HELDOUT_START
    games = np.concatenate([shard.games for shard in train])
    assert np.bincount(games).tolist() == [50] * 16


@pytest.mark.skipif(importlib.util.find_spec("procgen") is None, reason="needs build.py --install")
def test_procgen_frames_repeat(tmp_path: Path) -> None:
    done = [run("procgen/build.py", "--out", str(tmp_path / name), "--per-class", "1", "--heldout-per-class", "1") for name in "ab"]  # fmt: skip # noqa: E501
    assert done[0].returncode == 0, done[0].stderr
    one, two = ((tmp_path / name / "train" / "00000.parquet").read_bytes() for name in "ab")
    assert one == two
    source = open_source(tmp_path / "a" / "train")
    assert source.read(0)[0].size == (64, 64)
    assert len(set(source.class_names)) == 16


@pytest.mark.parametrize("flag", ["--per-class", "--heldout-per-class"])
def test_procgen_refuses_counts(tmp_path: Path, flag: str) -> None:
    done = run("procgen/build.py", "--out", str(tmp_path / "out"), flag, "0")
    assert done.returncode == 2
    assert "must be between 1" in done.stderr
    assert not (tmp_path / "out").exists()
