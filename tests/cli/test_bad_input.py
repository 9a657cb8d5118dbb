"""Wrong input: one clear line on stderr, status 2, nothing left behind."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nextscale.cli import main

Make = Callable[..., Path]


def refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture, root: Path | None = None) -> None:
    """The command ends with status 2 and one line that holds `message`; `root` holds no new file."""
    before = sorted(root.rglob("*")) if root else []
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "skipped unreadable" not in line]
    assert len(lines) == 1, error
    assert lines[0].startswith("nextscale: ")
    assert message in lines[0]
    assert "Traceback" not in error
    assert root is None or sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--classes", "gren"], "class 'gren' is not known; did you mean green"),
        (["--classes", "12"], "class 12 does not exist; ids go from 0 to 2"),
        (["--classes", ","], "--classes is empty"),
        (["--count", "0"], "count must be at least 1, got 0"),
        (["--count", "-3"], "count must be at least 1"),
        (["--count", "many"], "--count"),
        (["--batch-size", "-1"], "batch_size must be at least 0, got -1"),
        (["--top-p", "2"], "top_p must be between 0 and 1, got 2"),
        (["--top-k", "-1"], "top_k must be at least 0"),
        (["--temperature", "0"], "temperature must be above 0"),
        (["--temperatures", "1,0"], "temperatures must be numbers above 0"),
        (["--temperatures", "1,warm"], "temperatures"),
        (["--temperatures", "1,1", "--temperature", "2"], "give temperature, or temperatures per scale, not both"),
        (["--temperatures", "1,1,1,1,1"], "temperatures: settings of 5 scales, the model has 4"),
        (["--guided-scales", "-1"], "guided_scales must be at least 0"),
        (["--refine-steps", "0"], "refine_steps must be at least 1, got 0; 1 is off"),
        (["--refine-steps", "2"], "refine_steps 2: this model draws its last map at once"),
        (["--guided-scales", "5"], "guided_scales: settings of 5 scales, the model has 4"),
        (["--spatial-guidance", "nan"], "spatial_guidance must be numbers"),
        (["--spatial-guidance", "1,1,1,1"], "spatial_guidance: strengths of 4 scales after the first, the model has 3"),
        (["--guidance", "nan"], "guidance must be a number"),
        (["--precision", "fp7"], "precision 'fp7' is not known"),
        (["--device", "toaster"], "device 'toaster' is not known"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: cannot be read"),
        (["--colour", "red"], "--colour"),
        (["--candidates", "0"], "candidates must be at least 1, got 0"),
        (["--candidates", "2", "--keep", "3"], "keep must be at least 1 and at most the number of candidates"),
        (["--candidates", "2", "--judge", "nobody"], "judge 'nobody' is neither likelihood nor"),
        (["--candidates", "2", "--classes", "none"], "judges how well an image shows its class"),
    ],
)
def test_generate(model_folder: Path, tmp_path: Path, capsys, flags: list[str], message: str) -> None:
    arguments = ["generate", "--model", str(model_folder), "--out", str(tmp_path / "out"), *flags]
    refused(arguments, message, capsys, tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-sizes", "0"], "batch_sizes must be different numbers from 1, got [0]"),
        (["--batch-sizes", "2,2"], "batch_sizes must be different"),
        (["--batch-sizes", "two"], "batch_sizes"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--plot", "speed.xyz"], "expected a file that ends in .png"),
        (["--model", "random:var-d7"], "'random:var-d7' is not known"),
        (["--precision", "int7"], "precision 'int7' is not known; expected auto, fp32, bf16, fp16, int8"),
    ],
)
def test_bench(model_folder: Path, tmp_path: Path, capsys, flags: list[str], message: str) -> None:
    model = [] if "--model" in flags else ["--model", str(model_folder)]
    refused(["bench", *model, *flags], message, capsys, tmp_path)


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("generation", ["--count", "1"], "count must be at least 2"),
        ("generation", ["--features", "nothing"], "backbone 'nothing' is not a torchvision model"),
        ("generation", ["--sweep", "--guidances", "a,b"], "guidances: could not convert string"),
        ("reconstruction", ["--data", "nowhere", "--features", "none", "--perceptual", "none"], "data nowhere"),
        ("reconstruction", ["--features", "none", "--perceptual", "nothing"], "name the layers of nothing"),
        ("likelihood", ["--classify", "-1"], "classify must be at least 0"),
        ("likelihood", ["--data", "nowhere"], "there is no such file or folder"),
    ],
)
def test_evaluate(
    model_folder: Path, image_folder: Make, tmp_path: Path, capsys, command: str, flags: list[str], message: str
) -> None:
    data = [] if "--data" in flags else ["--data", str(image_folder())]
    arguments = ["evaluate", command, "--model", str(model_folder), "--out", str(tmp_path / "out"), *data, *flags]
    refused(arguments, message, capsys, tmp_path)


def test_unknown_models(tmp_path: Path, capsys) -> None:
    out = ["--out", str(tmp_path / "out")]
    refused(["generate", "--model", "no-such-model", *out], "'no-such-model' is not known", capsys, tmp_path)
    (tmp_path / "empty").mkdir()
    refused(["generate", "--model", str(tmp_path / "empty"), *out], "holds no config.json", capsys, tmp_path)
    (tmp_path / "file").write_text("x")
    refused(["generate", "--model", str(tmp_path / "file"), *out], "is a file", capsys, tmp_path)


def test_a_checkpoint_of_another_size(model_folder: Path, tmp_path: Path, capsys) -> None:
    path = model_folder / "transformer" / "config.json"
    path.write_text(path.read_text().replace('"depth": 2', '"depth": 3'))
    arguments = ["generate", "--model", str(model_folder), "--out", str(tmp_path / "out")]
    refused(arguments, "the weights do not fit config.json: missing blocks.2", capsys, tmp_path)


def test_a_tokenizer_is_not_a_generator(model_folder: Path, tmp_path: Path, capsys) -> None:
    arguments = ["generate", "--model", str(model_folder / "tokenizer"), "--out", str(tmp_path / "out")]
    refused(arguments, "holds a tokenizer but no transformer", capsys, tmp_path)


@pytest.mark.parametrize("place", ["/proc/nextscale", "/dev/null/out"])
def test_read_only_places(model_folder: Path, image_folder: Make, capsys, place: str) -> None:
    model, data = str(model_folder), str(image_folder())
    refused(["generate", "--model", model, "--out", place], "cannot be written", capsys)
    refused(["reconstruct", data, "--model", model, "--out", place], "cannot be written", capsys)
    refused(["tokenize", "--data", data, "--tokenizer", model, "--out", place], "cannot be written", capsys)
    refused(["train", "tokenizer", "--preset", "tiny-16", "--data", data, "--out", place], "cannot be written", capsys)
    refused(["info", model, "--json", f"{place}/x.json"], "cannot be written", capsys)


def told_by_a_full_disk(limit: int, *arguments: str) -> str:
    """What a command says when no file may grow beyond the limit: writing fails as it does when a disk is full."""
    done = subprocess.run(
        [sys.executable, "-m", "nextscale", *arguments],
        capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    return done.stderr


@pytest.mark.parametrize("limit", [100, 600, 2000])
def test_a_full_disk(model_folder: Path, tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    said = told_by_a_full_disk(limit, "generate", "--model", str(model_folder), "--out", str(out))
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_full_disk_while_training(model_folder: Path, image_folder: Make, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = told_by_a_full_disk(
        20_000, "train", "tokenizer", "--preset", "tiny-16", "--data", str(image_folder()), "--out", str(out),
        "--steps", "2", "--batch-size", "2", "--heldout-images", "2",
    )  # fmt: skip
    assert "Traceback" not in said
    assert list((out / "checkpoints").iterdir()) == []


def test_data_that_is_none(tmp_path: Path, image_folder: Make, model_folder: Path, capsys) -> None:
    out, model = str(tmp_path / "out"), str(model_folder)
    train = ["train", "tokenizer", "--preset", "tiny-16", "--out", out, "--data"]
    tokenize = ["tokenize", "--tokenizer", model, "--out", out, "--data"]
    var = ["train", "var", "--preset", "tiny", "--tokenizer", model, "--out", out, "--data"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("no image")
    for command in (train, tokenize, var):
        refused([*command, str(tmp_path / "empty")], "the folder is empty", capsys, tmp_path)
        refused([*command, str(tmp_path / "nowhere")], "there is no such file or folder", capsys, tmp_path)
        refused([*command, str(tmp_path / "note.txt")], "not a data set", capsys, tmp_path)
    refused(["train", "tokenizer", "--out", out], "--data is missing", capsys, tmp_path)
    refused(["train", "var", "--out", out, "--data", str(tmp_path)], "--tokenizer is missing", capsys, tmp_path)


def test_a_folder_of_corrupt_images(tmp_path: Path, image_folder: Make, model_folder: Path, capsys) -> None:
    folder = image_folder(per_class=2)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"corrupt")
    for command in (
        ["train", "tokenizer", "--preset", "tiny-16"],
        ["tokenize", "--tokenizer", str(model_folder)],
        ["train", "var", "--preset", "tiny", "--tokenizer", str(model_folder)],
    ):
        out = tmp_path / command[0] / command[1]
        refused([*command, "--data", str(folder), "--out", str(out)], "6 of 6 images cannot be read", capsys, tmp_path)


def test_reconstruct(tmp_path: Path, model_folder: Path, capsys) -> None:
    common = ["--model", str(model_folder), "--out", str(tmp_path / "out")]
    (tmp_path / "fake.png").write_text("not an image")
    refused(["reconstruct", str(tmp_path / "fake.png"), *common], "fake.png: not an image file", capsys, tmp_path)
    refused(["reconstruct", str(tmp_path / "nowhere.png"), *common], "no such file", capsys, tmp_path)
    (tmp_path / "empty").mkdir()
    refused(["reconstruct", str(tmp_path / "empty"), *common], "holds no images", capsys, tmp_path)
    refused(["reconstruct", *common], "no images given", capsys, tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "huge"], "preset 'huge' is not known; expected one of"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--scales", "1,2,x"], "scales: 'x' is not a size"),
        (["--scales", "4,2"], "must not shrink"),
        (["--multipliers", "1,a"], "multipliers"),
        (["--precision", "int3"], "precision 'int3' is not known"),
    ],
)
def test_training_settings(tmp_path: Path, image_folder: Make, capsys, flags: list[str], message: str) -> None:
    data = str(image_folder())
    preset = [] if "--preset" in flags else ["--preset", "tiny-16"]
    arguments = ["train", "tokenizer", *preset, "--data", data, "--out", str(tmp_path / "run"), *flags]
    refused(arguments, message, capsys, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("stpes: 3", "did you mean steps"), ("- 1", "expected a mapping"), ("{", "not YAML"), ("steps: many", "steps")],
)
def test_settings_files(tmp_path: Path, capsys, text: str, message: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    arguments = ["train", "tokenizer", "--data", "d", "--out", str(tmp_path / "run"), "--config"]
    refused([*arguments, str(tmp_path / "s.yaml")], message, capsys, tmp_path)


def test_unknown_commands(capsys) -> None:
    refused(["generat"], "generat", capsys)
    refused(["train", "gan"], "gan", capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to", "onnx"], "to 'onnx' is not known; expected one of folder, official"),
        (["--export", "int3"], "export 'int3' is not known"),
        (["--to", "official"], "no space-to-depth stem"),
        (["--to", "official", "--steps", "50"], "the authors' format holds no steps; write --to folder"),
        (["--top-p", "1.5"], "top_p must be between 0 and 1"),
        (["--steps", "-1"], "steps must be at least 0"),
    ],
)
def test_convert(model_folder: Path, tmp_path: Path, capsys, flags: list[str], message: str) -> None:
    arguments = ["convert", str(model_folder), "--out", str(tmp_path / "converted"), *flags]
    refused(arguments, message, capsys, tmp_path)


def test_convert_damaged_files(tmp_path: Path, capsys) -> None:
    (tmp_path / "var_d16.pth").write_bytes(b"nonsense")
    arguments = ["convert", str(tmp_path / "var_d16.pth"), "--out", str(tmp_path / "converted")]
    refused(arguments, "var_d16.pth: not a torch state dict", capsys, tmp_path)
