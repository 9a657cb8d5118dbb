"""`nextscale compare`: rows of models of different kinds, and the same tables from its JSON."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from nextscale.bench.model_comparison import facts, shared_classes
from nextscale.cli import main
from toys import make_baseline, make_pipeline, make_tokenizer


def test_two_kinds_side_by_side(
    image_folder: Callable[..., Path], small_features: None, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "220")  # tables are not broken
    make_pipeline().save_pretrained(tmp_path / "var")
    make_baseline("raster", depth=2, heads=2).save_pretrained(tmp_path / "raster")

    out = tmp_path / "out"
    command = ["compare", str(tmp_path / "var"), str(tmp_path / "raster"), "--data", str(image_folder(per_class=20))]
    flags = ["--count", "12", "--sets", "2", "--features", "small-6", "--time-batches", "1,2", "--rounds", "1"]
    precision = ["--precision", "fp32"]
    assert main([*command, *flags, *precision, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "next-scale prediction" in shown and "raster-order AR" in shown and "DiT-XL/2" in shown
    report = json.loads((out / "report.json").read_text())
    rows = report["models"]
    assert [row["kind"] for row in rows] == ["var", "raster"]
    assert [row["steps"] for row in rows] == [4, 16] and [row["tokens"] for row in rows] == [30, 16]
    assert rows[0]["bits"] == 30 * 5 and rows[1]["images_seen"] is None
    assert all(row["mean"]["frechet"] > 0 and row["seconds_per_image"]["2"] > 0 for row in rows)
    assert (out / "compare.png").is_file()
    assert Image.open(out / "samples.png").size == (12 * (16 + 2) - 2, 2 * (16 + 2) - 2)
    assert main(["compare", "--report", str(out / "report.json")]) == 0
    assert capsys.readouterr().out == shown
    tuned = [*command, *flags, *precision, "--guidances", "0,3", "--tuning-count", "6"]
    assert main([*tuned, "--out", str(tmp_path / "tuned")]) == 0
    for row in json.loads((tmp_path / "tuned" / "report.json").read_text())["models"]:
        name = "-".join(Path(row["model"]).parts[-2:])
        tried = json.loads((tmp_path / "tuned" / "tuning" / name / "report.json").read_text())
        assert [point["guidance"] for point in tried["points"]] == [0, 3]
        assert row["sampling"]["guidance"] == min(tried["points"], key=lambda point: point["frechet"])["guidance"]
    capsys.readouterr()
    assert main(["compare", "--data", "x"]) == 2
    assert main([*command, str(tmp_path / "var"), "--out", str(tmp_path / "again")]) == 2
    assert "models must have different names" in capsys.readouterr().err
    pair, settings = f"{tmp_path / 'var'}+{tmp_path / 'var'}@2", ["--guided-scales", "2"]
    assert main(["compare", pair, *command[3:], *flags, *settings, "--out", str(tmp_path / "pair")]) == 0
    (row,) = json.loads((tmp_path / "pair" / "report.json").read_text())["models"]
    assert row["kind"] == "pair" and row["sampling"]["guided_scales"] == 2 and row["steps"] == 4
    assert row["flops_per_image"] < rows[0]["flops_per_image"], "fewer guided scales, at a prefix computed twice"
    capsys.readouterr()
    assert main([*command, *flags, *settings, "--out", str(tmp_path / "refused")]) == 2
    assert "guided_scales and temperatures are next-scale prediction's" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists(), "before the first model is measured"


def test_models_side_by_side_share_classes_by_name() -> None:
    one, two = make_pipeline(), make_pipeline()
    two.config = replace(two.config, class_names=("red", "violet", "blue"))
    assert shared_classes(one, one) == [0, 1, 2]
    assert shared_classes(one, two) == [2, None, 0]
    assert shared_classes(one, make_pipeline(classes=0)) == []


def test_a_vit_tokenizer_is_named() -> None:
    pipeline = make_baseline("raster")
    assert facts("x", pipeline, {})["title"] == "raster-order AR (VQGAN)"
    pipeline.tokenizer = make_tokenizer(scales=((4, 4),), architecture="vit", patch=4, width=64, depth=1)
    about = facts("x", pipeline, {})
    assert about["title"] == "raster-order AR (VQGAN), ViT tokenizer"
    matrices = 2 * 16 * (8 * 64 + 12 * 64**2 + 64 * 48) + 4 * 16**2 * 64  # from the codes, a block, to the pixels
    assert about["flops_per_image"] - about["transformer_flops_per_image"] == matrices
