"""The ablation on toys: each training once, every row measured, the table from its file."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from scipy import stats

from nextscale.cli import main
from nextscale.families.config import family_presets
from nextscale.scaling.ablation import ROWS, Ablation, read_ablation, summarise, training_of_row
from toys import make_pipeline


def result(row: str, seed: int, value: float) -> dict:
    return {
        "row": row, "seed": seed, "images_seen": 64, "count": 8, "features": "toy", "figures": {"frechet": value},
    }  # fmt: skip


def test_intervals_are_students(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    results = [result("var", seed, value) for seed, value in enumerate((3.0, 4.0, 8.0))] + [result("raster", 0, 9.0)]
    table = summarise(results)
    assert [row["name"] for row in table] == ["raster", "var"], "in the order of the rows"
    low, high = stats.t.interval(0.95, 2, loc=5.0, scale=stats.sem([3.0, 4.0, 8.0]))
    assert table[1]["mean"]["frechet"] == 5.0
    assert table[1]["half_width"]["frechet"] == pytest.approx((high - low) / 2)
    assert table[0]["half_width"] == {}
    file = tmp_path / "ablation.json"
    file.write_text(json.dumps({"ablation": results}))
    assert read_ablation([file]) == results
    assert main(["scaling", "fit", str(file)]) == 0
    assert "5.0000 ±" in capsys.readouterr().out
    file.write_text(json.dumps({"ablation": [{"row": "no"}]}))
    assert main(["scaling", "fit", str(file)]) == 2
    assert "holds no results of `nextscale scaling ablation`" in capsys.readouterr().err


def test_rows_change_one_thing_each_at_equal_size() -> None:
    models = [family_presets(row.kind)[row.preset] for row in ROWS]
    changes = [
        (model.adaln, row.filtered, row.guided, model.qk_normalisation)
        for model, row in zip(models, ROWS, strict=True)
    ]  # fmt: skip
    assert [sum(one) for one in changes] == [0, 0, 1, 2, 3, 4]
    assert all(a <= b for one, two in pairwise(changes) for a, b in zip(one, two, strict=True))
    assert {(12 + 6 * model.adaln) * model.depth * model.width**2 for model in models} == {18 * 4 * 256**2}


@pytest.mark.slow
def test_rows_that_share_a_training_train_once(
    image_folder: Callable[..., Path], small_features: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_pipeline().save_pretrained(tmp_path / "model")
    data = str(image_folder())
    flags = [
        "scaling", "ablation", "--images", data, "--data", data, "--heldout", data, "--tokenizer",
        str(tmp_path / "model"), "--raster-data", data, "--raster-heldout", data, "--raster-tokenizer", "none",
        "--rows", "adaln,filtered", "--seeds", "0,1", "--steps", "3", "--batch-size", "4", "--count", "6",
        "--features", "small-6", "--precision", "fp32", "--out", str(tmp_path / "out"),
        "--json", str(tmp_path / "all.json"),
    ]  # fmt: skip
    assert main(flags) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("ablation-*")) == [
        "ablation-adaln-s0", "ablation-adaln-s1",
    ]  # fmt: skip
    results = json.loads((tmp_path / "all.json").read_text())["ablation"]
    assert [(one["row"], one["seed"], one["top_p"]) for one in results] == [
        ("adaln", 0, 0.0), ("filtered", 0, 0.95), ("adaln", 1, 0.0), ("filtered", 1, 0.95),
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert main(flags) == 0
    assert capsys.readouterr().out == shown, "what is done is left alone"
    assert main(["scaling", "fit", str(tmp_path / "all.json")]) == 0
    assert capsys.readouterr().out == shown, "the file holds all that the table shows"
    assert main(["4" if value == "3" else value for value in flags]) == 2
    assert "adaln-s0.json: was made with another steps (3, now 4)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"), [({"rows": ("no",)}, "rows must be some of raster"), ({"seeds": (1, 1)}, "different")]
)
def test_wrong_settings_are_refused(changes: dict, message: str) -> None:
    names = ("images", "data", "heldout", "tokenizer", "raster_data", "raster_heldout", "raster_tokenizer")
    with pytest.raises(ValueError, match=message):
        Ablation(**dict.fromkeys(names, "x"), **changes)


def test_raster_order_reads_its_own_tokens(tmp_path: Path) -> None:
    config = Ablation(
        images="i", data="d", heldout="h", tokenizer="t", raster_data="rd", raster_heldout="rh", raster_tokenizer="rt",
        out=str(tmp_path),
    )  # fmt: skip
    raster, var = (training_of_row(config, row, 5) for row in ROWS[:2])
    assert (raster.data, raster.heldout, raster.tokenizer) == ("rd", "rh", "rt")
    assert (var.data, var.heldout, var.tokenizer, var.seed) == ("d", "h", "t", 5)
