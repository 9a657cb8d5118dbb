"""Suggestions follow the data."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nextscale.cli import main
from nextscale.config import from_dict, read_json
from nextscale.data.source import open_source
from nextscale.training.suggest import suggest_tokenizer, suggest_transformer
from nextscale.training.tokenizer import TokenizerTraining
from nextscale.training.transformer import TransformerTraining

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("side", "size", "enlarge"), [(16, 32, 1.0), (64, 64, 1.0), (80, 64, 1.125), (300, 128, 1.125)]
)
def test_the_preset_follows_the_images_size(image_folder: Make, side: int, size: int, enlarge: float) -> None:
    suggestion = suggest_tokenizer(open_source(image_folder(per_class=3, side=side)))
    config = from_dict(TokenizerTraining, {"data": "d", "out": "o"} | suggestion.settings)
    assert config.model.image_size == (size, size)
    assert (config.enlarge, config.batch_size, config.steps, config.model.codebook_size) == (enlarge, 9, 2000, 1024)
    assert suggestion.reason.startswith(f"9 images, typically {side} pixels wide or high: --preset small-{size} ")
    assert "--steps 2000" in suggestion.reason


@pytest.mark.parametrize(
    ("count", "depth", "batch", "steps"), [(100, 4, 64, 3000), (10_000, 6, 64, 15_700), (1_281_167, 16, 64, 40_000)]
)
def test_the_depth_follows_the_number_of_images(count: int, depth: int, batch: int, steps: int) -> None:
    settings = suggest_transformer(count).settings
    config = from_dict(TransformerTraining, {"data": "d", "out": "o", "tokenizer": "t"} | settings)
    assert (config.model.depth, config.batch_size, config.steps) == (depth, batch, steps)
    assert config.model.heads == depth


def test_commands_say_what_they_chose_and_flags_override(tmp_path: Path, image_folder: Make, capsys) -> None:
    data, out = str(image_folder(per_class=3)), tmp_path / "one"
    small = ["--steps", "1", "--channels", "16", "--heldout-images", "2", "--precision", "fp32"]
    assert main(["train", "tokenizer", "--data", data, "--out", str(out), *small]) == 0
    assert "9 images, typically 16 pixels wide or high: --preset small-32" in capsys.readouterr().out
    recorded = read_json(out / "config.json")
    assert (recorded["steps"], recorded["batch_size"], recorded["model"]["channels"]) == (1, 9, 16)
    two = ["train", "var", "--tokenizer", str(out), "--data", data, "--out", str(tmp_path / "two")]
    assert main([*two, "--steps", "1", "--depth", "1", "--precision", "fp32"]) == 0
    assert "9 images, depth 4: --preset small" in capsys.readouterr().out
    assert read_json(tmp_path / "two" / "config.json")["model"]["depth"] == 1
