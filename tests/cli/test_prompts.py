"""Prompts on the command line: images, manifests, edits, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nextscale import VARPipeline
from nextscale.cli import main
from nextscale.official import transformer_to_official
from toys import TEXT, make_pipeline, make_transformer, toy_image

ODD = "a red heart, big\n\n\u05dc\u05d1 \u05d0\u05d3\u05d5\u05dd\n" + "word " * 2000 + "\nnul\x00byte\n\u2603\n"


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, pipeline = tmp_path_factory.mktemp("text") / "model", make_pipeline(text=TEXT)
    pipeline.config = replace(pipeline.config, prompts=("a red square", "a blue square"))
    pipeline.save_pretrained(folder)
    return folder


def entries(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_generate_takes_prompts(text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command, out = ["generate", "--model", str(text_folder), "--out", str(tmp_path / "out")], tmp_path / "out"
    prompts = ["--prompt", "a red heart, big", "--prompt", "cat", "--negative-prompt", "blue"]
    assert main([*command, *prompts, "--count", "3"]) == 0
    found = entries(out)
    assert [entry["prompt"] for entry in found] == ["a red heart, big", "cat", "a red heart, big"]
    assert found[0]["settings"]["negative_prompt"] == "blue" and "class" not in found[0]
    pipeline = VARPipeline.from_pretrained(text_folder)
    result = pipeline.generate(["cat"], seeds=[1], negative_prompt="blue")
    assert result.prompts == ["cat"] and pipeline.names_of(result) == ["cat"]
    result.images[0].save(tmp_path / "own.png")
    assert (tmp_path / "own.png").read_bytes() == (out / "000001.png").read_bytes(), "the same from Python"
    assert main([*command, "--count", "2"]) == 0
    assert [entry["prompt"] for entry in entries(out)] == ["a red square", "a blue square"], "its own examples"
    assert main([*command, "--classes", "none", "--count", "1"]) == 0
    assert entries(out)[0]["prompt"] is None
    assert main([*command, "--prompt", "cat", "--candidates", "2", "--count", "1"]) == 0
    assert entries(out)[0]["score"] < 0
    (tmp_path / "prompts.txt").write_text(ODD, encoding="utf-8")
    assert main([*command, "--prompts", str(tmp_path / "prompts.txt"), "--count", "5"]) == 0
    assert len(entries(out)) == 5
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.endswith("the model reads 5 words; 1995 words were left out\n")
    assert main(["info", "--model", str(text_folder)]) == 0
    assert "prompts, of which it reads 5 words" in capsys.readouterr().out


def test_edits_take_prompts(text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    toy_image(0, 0).save(tmp_path / "image.png")
    image, model = str(tmp_path / "image.png"), ["--model", str(text_folder), "--out", str(tmp_path / "out.png")]
    boxes = ["--boxes", "4,4,12,12", "--strips"]
    assert main(["edit", "inpaint", image, *model, *boxes, "--prompt", "cat", "--negative-prompt", "dog"]) == 0
    own = VARPipeline.from_pretrained(text_folder)
    same = own.inpaint(image, [(4, 4, 12, 12)], classes=["cat"], negative_prompt="dog").images[0]
    same.save(tmp_path / "own.png")
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "out.png").read_bytes()
    assert main(["edit", "outpaint", image, *model, "--expand", "left=8", "--prompt", "cat"]) == 0
    assert main(["edit", "class", image, *model]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["1 image (cat)", "1 image (cat)", "1 image (no prompt)"]


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("text", ["--classes", "red"], "--classes red: this model draws from prompts; say --prompt 'a red heart'"),
        ("text", ["--classes", "none", "--prompt", "cat"], "--classes none and --prompt contradict each other"),
        ("text", ["--prompts", "nowhere"], "--prompts nowhere: cannot be read"),
        (
            "text",
            ["--prompt", "cat", "--candidates", "2", "--judge", "resnet18"],
            "tells 1000 classes, the model has",
        ),
        ("class", ["--prompt", "a red heart"], "this model draws classes, which prompts may name; class 'a red heart'"),
        ("class", ["--prompt", "red", "--classes", "red"], "say the same of this model"),
        ("class", ["--negative-prompt", "red"], "negative_prompt is for models of prompts"),
    ],
)
def test_wrong_prompts_are_refused(
    text_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, model: str, flags: list[str],
    message: str,
) -> None:  # fmt: skip
    folder = text_folder if model == "text" else model_folder
    assert main(["generate", "--model", str(folder), "--count", "1", "--out", str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("wrong", ["5", "{a: b}", "[1]"])
def test_prompts_in_a_settings_file_are_texts(tmp_path: Path, capsys: pytest.CaptureFixture, wrong: str) -> None:
    (tmp_path / "settings.yaml").write_text(f"prompt: {wrong}")
    assert main(["generate", "--config", str(tmp_path / "settings.yaml"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "prompt: expected" in line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate likelihood --model MODEL --data DATA --out OUT", "its run's heldout_loss is measured with captions"),
        ("train neon --model MODEL --data DATA --out OUT --features small-6", "neon draws its samples from classes"),
    ],
)
def test_what_needs_classes_says_so(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, small_features: None, command: str, message: str
) -> None:
    (tmp_path / "images" / "red").mkdir(parents=True)
    for number in range(2):
        toy_image(2, number).save(tmp_path / "images" / "red" / f"{number}.png")
    places = {"MODEL": str(text_folder), "DATA": str(tmp_path / "images"), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in command.split()]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert message in last and not (tmp_path / "out").exists()


def test_the_official_format_holds_no_prompts() -> None:
    with pytest.raises(ValueError, match="the official format has no place for what reads prompts"):
        transformer_to_official(make_transformer(text=TEXT))


def test_a_prompt_may_name_a_class(model_folder: Path, tmp_path: Path) -> None:
    command = [
        "generate",
        "--model",
        str(model_folder),
        "--count",
        "1",
        "--prompt",
        "red",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(command) == 0
    assert entries(tmp_path / "o")[0]["class"] == "red"


def test_prompts_are_text() -> None:
    pipeline = make_pipeline(text=TEXT)
    for wrong in ([3], [b"red"]):
        with pytest.raises(ValueError, match="this model has no classes and draws from prompts"):
            pipeline.generate(wrong)
    with pytest.raises(ValueError, match="no prompts given"):
        pipeline.generate([])
    unguided = pipeline.generate([None, ""], seeds=[3, 3], guidance=0.0)
    assert unguided.images[0].tobytes() == unguided.images[1].tobytes() and pipeline.names_of(unguided) == [None, None]
