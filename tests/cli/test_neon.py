"""`nextscale train neon`: from a finished model to a better one, what it says, and how it goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nextscale.cli import main
from nextscale.cli.train import show_neon
from nextscale.config import read_json
from nextscale.evaluation import sampled
from toys import make_baseline, make_pipeline

SMALL = ["--samples", "12", "--steps", "4", "--lengths", "2", "--batch-size", "4", "--tuning-count", "8"]
TRIED = ["--weights", "1,2", "--guidances", "0,2", "--features", "small-6", "--precision", "fp32"]


@pytest.mark.parametrize("kind", ["var", "raster"])
def test_from_a_model_to_a_better_one(
    kind: str, image_folder: Callable[..., Path], small_features: None, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    pipeline = make_pipeline() if kind == "var" else make_baseline(kind, depth=2, heads=2)
    pipeline.save_pretrained(tmp_path / "model")
    data, out = str(image_folder(per_class=8)), tmp_path / "run"
    command = ["train", "neon", "--model", str(tmp_path / "model"), "--data", data, *SMALL, *TRIED]
    with monkeypatch.context() as patch:
        patch.setattr(sampled, "draw_shard", stopped)
        assert main([*command, "--out", str(out)]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"continue with: nextscale train neon --resume --out {out}", "stopped"
    ]  # fmt: skip
    assert main([*command, "--out", str(out)]) == 2
    assert "add --resume to continue it" in capsys.readouterr().err
    assert main(["train", "neon", str(out), "--resume", "--json", str(tmp_path / "table.json")]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(out / "model")
    assert said.err.splitlines()[-1] == f"next: nextscale evaluate generation --model {out} --data {data}"
    report = read_json(out / "neon.json")
    assert report == read_json(tmp_path / "table.json")
    best = report["best"]
    assert f"{best['frechet']:.2f}" in said.out or f"{best['frechet']:.4f}" in said.out
    assert read_json(out / "model" / "config.json")["guidance"] == best["guidance"]
    assert main(["generate", "--model", str(out), "--count", "2", "--out", str(tmp_path / "drawn")]) == 0
    assert main(["train", kind, str(out), "--resume"]) == 2
    assert "is a run of train neon" in capsys.readouterr().err


def stopped(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_table_without_a_gain_says_so(capsys: pytest.CaptureFixture) -> None:
    points = [{"weight": w, "steps": 8 * w, "guidance": g, "frechet": 10.0 + w + g} for w in (0, 1) for g in (0, 2)]
    report = {"table": points, "count": 8, "features": {"name": "small-6"}}
    report |= {"best": points[0], "best_unchanged": points[0], "unchanged": points[1]}
    show_neon(report)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == (
        "no weight improves on the model itself (10.00 at its best guidance 0, 12.00 at its own): "
        "it is exported, with guidance 0"
    )
    assert any("11.00" in line and "13.00" in line for line in shown)
