"""Scaling runs on toys: trained once each, resumed, shared between hosts, fitted from files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nextscale.cli import main
from nextscale.config import read_json
from nextscale.scaling.runs import ScalingRun, claimed, run_depths, shared_precision, training_of_depth
from toys import make_pipeline, scaling_results


@pytest.fixture
def flags(image_folder: Callable[..., Path], tmp_path: Path) -> list[str]:
    make_pipeline().save_pretrained(tmp_path / "model")
    data = str(image_folder())
    return [
        "scaling", "run", "--data", data, "--heldout", data, "--tokenizer", str(tmp_path / "model"),
        "--batch-size", "4", "--heldout-images", "8", "--measurements", "3", "--precision", "fp32",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip


def test_depths_train_once_and_are_fitted(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert main([*flags, "--depths", "1,2"]) == 0
    first = (out / "var-d1.json").read_bytes()
    assert main([*flags, "--depths", "1,2,3", "--json", str(tmp_path / "all.json")]) == 0
    assert (out / "var-d1.json").read_bytes() == first, "what is done is left alone"
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert [one["depth"] for one in results] == [1, 2, 3]
    assert [one["parameters"] for one in results] == [73_728, 589_824, 1_990_656]
    for one in results:
        assert [point["images"] for point in one["curve"]] == [8, 16, 24], "every image once"
        assert one["loss"] == one["curve"][-1]["loss"] and 0 <= one["error_last"] <= 1
    capsys.readouterr()
    assert main(["scaling", "fit", str(out), "--json", str(tmp_path / "fit.json")]) == 0
    shown = capsys.readouterr().out
    assert main(["scaling", "fit", str(tmp_path / "all.json")]) == 0
    assert capsys.readouterr().out == shown, "one file holds what the folder does"
    assert json.loads((tmp_path / "fit.json").read_text())["fits"][0]["loss"]["parameters"]["points"] == 3
    assert main(["scaling", "plot", str(out), "--out", str(tmp_path / "laws.png")]) == 0
    assert (tmp_path / "laws.png").is_file()
    assert main(["scaling", "predict", str(out), "--depth", "6"]) == 0
    assert "var-d6 loss:" in capsys.readouterr().out


def test_a_cut_off_log_is_read_up_to_its_last_whole_line(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([*flags, "--depths", "1"]) == 0
    before = (out / "var-d1.json").read_bytes()
    (out / "var-d1.json").unlink()
    with (out / "var-d1" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 6, "heldout_lo')
    assert main([*flags, "--depths", "1"]) == 0
    assert (out / "var-d1.json").read_bytes() == before


def test_depths_share_data_and_precision(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*flags, "--depths", "1"]) == 0
    recorded = read_json(tmp_path / "out" / "var-d1" / "config.json")
    (tmp_path / "out" / "var-d1" / "config.json").write_text(json.dumps(recorded | {"precision": "bf16"}))
    auto = [*flags[: flags.index("--precision")], *flags[flags.index("--out") :]]
    settings = dict(zip(auto[2::2], auto[3::2], strict=True))
    config = ScalingRun(
        data=settings["--data"], heldout=settings["--data"], tokenizer=settings["--tokenizer"], out=settings["--out"]
    )
    assert shared_precision(config) == "bf16", "that of the depth that is there, whatever this processor takes"
    assert shared_precision(replace(config, precision="fp32")) == "fp32"
    assert shared_precision(replace(config, out=str(tmp_path / "new"))) == "auto"
    assert main([*auto, "--depths", "1"]) == 0, "done, and the same"
    moved = shutil.move(settings["--data"], tmp_path / "moved")
    auto = [str(moved) if value == settings["--data"] else value for value in auto]
    assert main([*auto, "--depths", "1"]) == 0, "moved data is the same"
    (Path(moved) / "blue").rename(Path(moved) / "violet")
    capsys.readouterr()
    assert main([*auto, "--depths", "1"]) == 2
    assert f"was made with other data than {moved} holds now" in capsys.readouterr().err


def test_claimed_depths_are_left_to_others(flags: list[str], tmp_path: Path) -> None:
    settings = dict(zip(flags[2::2], flags[3::2], strict=True))
    config = ScalingRun(
        data=settings["--data"], heldout=settings["--data"], tokenizer=settings["--tokenizer"], batch_size=4,
        heldout_images=8, measurements=3, depths=(1,), out=settings["--out"], precision="fp32", kind="var",
    )  # fmt: skip
    claim = Path(config.out) / "var-d1.claim"
    with claimed(claim) as mine, claimed(claim) as again:
        assert mine and not again
        assert run_depths(config) == []
    assert not claim.exists()
    claim.write_text("elsewhere 1")
    assert run_depths(config) == []
    import socket

    claim.write_text(f"{socket.gethostname()} 999999999")
    assert run_depths(config) == [Path(config.out) / "var-d1.json"], "a process that is gone holds nothing"
    assert training_of_depth(config, 1).optimiser.learning_rate == pytest.approx(8e-3 * 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--depths", "1,1"], "depths must be different"),
        (["--depths", "0"], "depths must be different numbers from 1"),
        (["--kind", "dit"], "kind 'dit' has no depths to compare"),
        (["--images", "1000"], "holds 24 images, 1000 are asked for"),
        (["--measurements", "99"], "too few for 99 measurements"),
    ],
)
def test_wrong_runs_are_refused(flags: list[str], capsys: pytest.CaptureFixture, more: list[str], message: str) -> None:
    kept = {name: value for name, value in zip(flags[2::2], flags[3::2], strict=True) if name != more[0]}
    assert main(["scaling", "run", *(part for pair in kept.items() for part in pair), *more]) == 2
    assert message in capsys.readouterr().err


def test_wrong_results_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "two.json").write_text(json.dumps({"results": scaling_results((1, 2))}))
    for arguments, message in (
        (["fit"], "no results given"), (["fit", str(tmp_path / "x.json")], "holds no results"),
        (["fit", str(tmp_path / "two.json")], "at least three points"),
        (["predict", str(tmp_path / "two.json"), "--depth", "0"], "depth must be at least 1"),
        (["plot", str(tmp_path / "two.json"), "--out", "x.xyz"], "expected a file that ends in .png"),
    ):  # fmt: skip
        assert main(["scaling", *arguments]) == 2
        assert message in capsys.readouterr().err
