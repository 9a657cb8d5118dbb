"""Commands that read images say how many classes there are, ask where that is in doubt, and write nothing then."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from nextscale.cli import main
from nextscale.data.tokens import open_tokens
from toys import toy_image, write_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Images of two classes, named by text that looks like numbers, in a column of another name."""
    return write_table(tmp_path / "x.parquet", ["02119789", "02120079"] * 4, name="fine_label")


def test_tokenize_asks_for_the_labels(
    table: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["tokenize", "--data", str(table), "--tokenizer", str(model_folder), "--out", str(tmp_path / "t")]
    assert main(asked) == 2
    assert "--label-column fine_label" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()
    assert main([*asked, "--label-column", "fine_label"]) == 0
    assert "8 images in 2 classes by column 'fine_label': 02119789, 02120079" in capsys.readouterr().out
    assert open_tokens(tmp_path / "t").config.class_names == ("02119789", "02120079")


def test_tokenize_keeps_captions(
    table: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["tokenize", "--data", str(table), "--tokenizer", str(model_folder), "--out", str(tmp_path / "t")]
    asked += ["--label-column", "fine_label"]
    for wrong in (["--caption-column", "text"], ["--caption-template", "name"]):
        assert main([*asked, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "t").exists()
    assert main([*asked, "--caption-template", "class {name}"]) == 0
    assert "; captions from class names by the template 'class {name}'" in capsys.readouterr().out
    cache = open_tokens(tmp_path / "t")
    assert [cache.captions_of(index) for index in (0, 1)] == [("class 02119789",), ("class 02120079",)]


@pytest.mark.parametrize("preset", [["--preset", "small"], []])
def test_train_asks_for_the_labels(
    table: Path, model_folder: Path, tmp_path: Path, preset: list[str],
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    train = ["train", "var", "--data", str(table), "--tokenizer", str(model_folder), "--out", str(tmp_path / "run"),
             "--steps", "1", "--batch-size", "2", "--depth", "1", "--precision", "fp32"]  # fmt: skip
    train += preset
    assert main(train) == 2
    assert "--label-column fine_label" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*train, "--label-column", "fine_label"]) == 0
    assert any("in 2 classes by column 'fine_label'" in message for message in caplog.messages)
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["label_column"] == "fine_label"
    assert settings["model"]["classes"] == 2


def test_evaluate_takes_the_columns(table: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["evaluate", "likelihood", "--data", str(table), "--model", str(model_folder), "--count", "4"]
    assert main(asked) == 2
    assert "--label-column fine_label" in capsys.readouterr().err
    assert main([*asked, "--label-column", "none"]) == 0


def test_reconstruct_takes_what_data_takes(
    image_folder: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    folder = image_folder(per_class=1)
    (folder / ".hidden").mkdir()
    toy_image(0, 0).save(folder / ".hidden" / "x.png")
    (folder / "red" / "._000.png").write_bytes(b"junk")
    asked = ["reconstruct", str(folder), "--model", str(model_folder), "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    assert len(list((tmp_path / "out").glob("0*.png"))) == 3
