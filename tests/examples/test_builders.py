"""The scripts that build image sets."""

import gzip
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from nextscale.data.source import describe, open_source
from toys import write_tar

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


def package(path: Path, files: dict[str, bytes]) -> None:
    write_tar(path, {f"package/{name}": data for name, data in files.items()})


def rgba(colour: tuple[int, int, int], size: tuple[int, int], form: str) -> bytes:
    """A square of a colour in the middle of nothing."""
    image = Image.new("RGBA", size)
    image.paste((*colour, 255), (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    buffer = io.BytesIO()
    image.save(buffer, format=form, lossless=True)
    return buffer.getvalue()


EMOJI = {
    "2764-fe0f": "red heart", "1f49a": "green heart", "1f4d7": "green book", "1f499": "blue heart",
    "1f34e": "red apple", "1f1eb-1f1f7": "flag: France", "1f44d": "thumbs up",
}  # fmt: skip
TONE = "1f44d-1f3fb"
OTHERS = 30
"""Emoji beside those above, for splits and candidates."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small packages of the kinds that npm fetches."""
    folder = tmp_path_factory.mktemp("packages")
    emoji = EMOJI | {f"1f9{number:02d}": f"thing {number}" for number in range(OTHERS)}
    entries = [{"unified": code.upper(), "image": f"{code}.png", "name": "?", "category": "Objects", "has_img_google": True} for code in emoji]  # fmt: skip # noqa: E501
    entries[6]["skin_variations"] = {"1F3FB": {"unified": TONE.upper(), "image": f"{TONE}.png", "has_img_google": True}}
    pictures = {f"img/google/64/{code}.png": rgba((255, 0, 0), (64, 64), "PNG") for code in (*emoji, TONE)}
    package(folder / "emoji-datasource-google-16.0.0.tgz", {"emoji.json": json.dumps(entries).encode()} | pictures)
    webp = {f"assets/{code}.webp": rgba((0, 0, 255), (256, 264), "WEBP") for code in (*emoji, TONE)}
    package(folder / "lobehub-fluent-emoji-3d-1.1.0.tgz", webp)
    texts = {"".join(chr(int(part, 16)) for part in code.split("-")): name for code, name in emoji.items()}
    texts["\U0001f44d\U0001f3fb"] = "thumbs up: light skin tone"
    told = {sign: {"tts": [name], "default": [*name.split(), "love"]} for sign, name in texts.items()}
    for kind, where in {"annotations": "full", "annotationsDerived": "derived-full"}.items():
        half = {sign: one for sign, one in told.items() if (len(sign) > 1) == (kind != "annotations")}
        data = json.dumps({kind: {"annotations": half}}).encode()
        package(folder / f"cldr-annotations-{where}-48.2.0.tgz", {f"{kind}/en/annotations.json": data})
    return folder


def test_emoji_with_names(tmp_path: Path, packages: Path) -> None:
    done = run("emoji/build_text.py", "--out", str(tmp_path / "a"), "--size", "32", "--packages", str(packages))
    assert done.returncode == 0, done.stderr
    source = open_source(tmp_path / "a" / "train", caption_column="")
    assert describe(source).endswith("; captions from column 'captions'")
    by_name = {Path(source.name(index)).stem: index for index in range(len(source))}
    flat, solid = by_name["2764-flat"], by_name["2764-3d"]
    assert source.captions_of(flat) == ("a red heart, flat", "red heart, flat", "red heart", "red, heart, love, flat")
    assert source.captions_of(solid)[0] == "a red heart, 3d"
    for index, colour in ((flat, (255, 0, 0)), (solid, (0, 0, 255))):
        image, _ = source.read(index)
        assert image.size == (32, 32)
        assert image.getpixel((16, 16)) == colour
        assert image.getpixel((0, 16)) == (255, 255, 255)
    assert source.captions_of(by_name[f"{TONE}-flat"])[1] == "thumbs up, light skin tone, flat"
    held = open_source(tmp_path / "a" / "combinations", caption_column="captions")
    assert {held.captions_of(index)[2] for index in range(len(held))} == {"green heart"}
    (listed,) = json.loads((tmp_path / "a" / "combinations.json").read_text())["questions"]
    assert (listed["kind"], listed["name"], listed["words"]) == ("colour", "green heart", ["green", "heart"])
    assert len(set(listed["candidates"])) == 20
    assert {"green heart", "red heart", "blue heart", "green book"} <= set(listed["candidates"])
    names = json.loads((tmp_path / "a" / "names.json").read_text())
    assert {"name": "red heart", "prompt": "a red heart, 3d"} in names["questions"] or {
        "name": "red heart",
        "prompt": "a red heart, flat",
    } in names["questions"]
    assert "red heart" in names["candidates"] and not {"green heart", "flag of France"} & set(names["candidates"])
    apart = open_source(tmp_path / "a" / "heldout", caption_column="captions")
    flag = [index for index in range(len(apart)) if apart.name(index).startswith("1f1eb-1f1f7")]
    assert [apart.captions_of(index)[0] for index in flag] == ["flag of France, flat"], "Fluent has no flags"
    assert len(apart) == 7
    assert "MIT License" in (tmp_path / "a" / "NOTICE").read_text()


def test_emoji_of_classes(tmp_path: Path, packages: Path) -> None:
    archive = packages / "emoji-datasource-google-16.0.0.tgz"
    done = run("emoji/build.py", "--out", str(tmp_path), "--package", str(archive))
    assert done.returncode == 0, done.stderr
    parts = [open_source(tmp_path / split) for split in ("train", "heldout")]
    assert sum(map(len, parts)) == len(EMOJI) + 1 + OTHERS
    assert parts[0].class_names[4] == "objects"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--size", "4"], "--size must be between 8 and 256"), (["--packages", "."], "No such file"), ([], "")],
)
def test_emoji_refuses_other_packages(tmp_path: Path, packages: Path, arguments: list[str], message: str) -> None:
    if not arguments:  # the package of something else
        for file in packages.glob("*.tgz"):
            (tmp_path / file.name).write_bytes((packages / "lobehub-fluent-emoji-3d-1.1.0.tgz").read_bytes())
        arguments, message = ["--packages", str(tmp_path)], "holds no emoji.json"
    done = run("emoji/build_text.py", "--out", str(tmp_path / "out"), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
