"""Whatever is reused belongs to what is asked for: caches, old folders, statistics; and classes go by name."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nextscale.cli import main
from nextscale.data.source import open_source
from nextscale.evaluation import sampled
from nextscale.evaluation.generation import GenerationEvaluation, evaluate_generation
from nextscale.evaluation.image_sets import batches
from nextscale.evaluation.metrics import FeatureStatistics, frechet_distance
from nextscale.evaluation.reference import balanced_order
from toys import CLASS_NAMES, SmallFeatures, toy_image

Make = Callable[..., Path]


@pytest.fixture
def config(
    tmp_path: Path, image_folder: Make, model_folder: Path, small_features: None, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> GenerationEvaluation:  # fmt: skip
    monkeypatch.setattr(sampled, "SHARD", 8)
    caplog.set_level(logging.INFO, "nextscale")
    return GenerationEvaluation(
        data=str(image_folder(per_class=8)), model=str(model_folder), out=str(tmp_path / "out"), count=12,
        features="small-6", device="cpu", precision="fp32", batch_size=4,
    )  # fmt: skip


def features_of(config: GenerationEvaluation, folder: Path, indices: np.ndarray) -> torch.Tensor:
    network = SmallFeatures(config.features)
    return torch.cat([network(pixels) for pixels, _ in batches(open_source(folder), (16, 16), batch_size=7)])[indices]


def test_linked_classes_are_told_apart(config: GenerationEvaluation, image_folder: Make, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()

    def distance(target: Path) -> float:
        for title in CLASS_NAMES:
            (linked / title).unlink(missing_ok=True)
            (linked / title).symlink_to(target / title)
        return evaluate_generation(replace(config, images=config.data, data=str(linked), count=24))["mean"]["frechet"]

    other = image_folder("other", per_class=8)
    for path in other.rglob("*.png"):
        toy_image(0, int(path.stem)).save(path)
    order = balanced_order(open_source(other))
    expected = frechet_distance(
        *(FeatureStatistics.of(features_of(config, folder, order)) for folder in (Path(config.data), other))
    )
    assert distance(Path(config.data)) == pytest.approx(0, abs=1e-4)
    assert distance(other) == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3


def test_features_computed_before_are_told_of_and_a_damaged_cache_is_done_without(
    config: GenerationEvaluation, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, images=config.data)
    first = evaluate_generation(config)
    assert "computed before" not in caplog.text
    assert evaluate_generation(config) == first
    assert "features of 12 images, computed before" in caplog.text
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert evaluate_generation(config) == first
    assert "its features are computed anew" in caplog.text
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("in the way")
    assert evaluate_generation(config) == first
    assert "features are not kept" in caplog.text and "no home directory" not in caplog.text
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert evaluate_generation(config) == first
    assert "features are not kept: there is no home directory" in caplog.text


def test_an_old_folder_is_of_one_decoder(
    config: GenerationEvaluation, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = evaluate_generation(config)
    settings = json.loads((Path(config.out) / "settings.json").read_text())
    assert "drawn before" not in caplog.text
    assert evaluate_generation(config) == first
    assert "12 of 12 images were drawn before" in caplog.text
    moved = model_folder.with_name("moved")
    shutil.copytree(model_folder, moved)
    assert evaluate_generation(replace(config, model=str(moved)))["sets"] == first["sets"]
    path = model_folder / "tokenizer" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("decoder.") and name.endswith("weight"))
    save_file(tensors | {name: tensors[name] * 1.5}, path)
    with pytest.raises(ValueError, match=r"holds an evaluation with other settings \(tokenizer\); choose another"):
        evaluate_generation(config)
    assert json.loads((Path(config.out) / "settings.json").read_text()) == settings


def test_statistics_say_of_what_they_are(
    config: GenerationEvaluation, tmp_path: Path, image_folder: Make, caplog: pytest.LogCaptureFixture
) -> None:
    images = replace(config, images=config.data, statistics=str(tmp_path / "real.npz"))
    whole = evaluate_generation(images)
    with np.load(tmp_path / "real.npz", allow_pickle=False) as file:
        assert file["network"] == "small-6" and file["image_size"].tolist() == [16, 16] and file["count"] == 12
        values = dict(file)
    again = replace(images, data=images.statistics, statistics="")
    found = evaluate_generation(again)
    assert found["mean"]["frechet"] == pytest.approx(whole["mean"]["frechet"], rel=1e-6)
    assert found["reference"]["count"] == 12 and "names no network" not in caplog.text

    larger = replace(again, images=str(image_folder("larger", side=24)))
    for wrong, message in (
        (larger, "holds statistics of images of 16 x 16 pixels; those measured have 24 x 24"),
        (replace(again, feature_weights="1"), "statistics of the features of small-6 with other weights"),
        (replace(again, features="other-6"), "statistics of small-6's features, not of other-6's"),
        (replace(again, features="small-7"), "statistics of 6 features; those of small-7 are 7"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_generation(wrong)
    np.savez(tmp_path / "foreign.npz", mu=values["mu"], sigma=values["sigma"])
    foreign = evaluate_generation(replace(again, data=str(tmp_path / "foreign.npz")))
    assert foreign["mean"]["frechet"] == found["mean"]["frechet"] and foreign["reference"]["count"] is None
    assert "names no network: its statistics are taken to be of small-6's features" in caplog.text


def test_a_reference_batch_gives_the_distance_by_its_statistics(
    config: GenerationEvaluation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(config.data)
    pixels = np.stack([np.asarray(open_source(folder).read(i)[0]) for i in range(24)])
    features = features_of(config, folder, np.arange(24)).double()
    shifted = {"mu": (features.mean(0) + 1).numpy(), "sigma": torch.cov(features.T).numpy()}
    np.savez(tmp_path / "both.npz", arr_0=pixels, **shifted)
    both = replace(config, images=config.data, data=str(tmp_path / "both.npz"), count=24)
    report = evaluate_generation(both)
    assert report["mean"]["frechet"] == pytest.approx(6, rel=1e-4), "a shift by one of each feature"
    assert report["mean"]["precision"] == 1.0, "of the very same images"
    assert "the Frechet distance is to the statistics in it" in caplog.text
    np.savez(tmp_path / "both.npz", arr_0=pixels, mu=np.zeros(7), sigma=np.eye(7))
    assert evaluate_generation(both)["mean"]["frechet"] == pytest.approx(0, abs=1e-4)
    assert "holds statistics of 7 features; those of small-6 are 6; they are passed over" in caplog.text


def test_wrong_data_is_refused_before_anything_is_drawn(config: GenerationEvaluation, tmp_path: Path) -> None:
    np.savez(tmp_path / "nan.npz", mu=np.full(6, np.nan), sigma=np.eye(6))
    np.savez(tmp_path / "size.npz", mu=np.zeros(9), sigma=np.eye(9))
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((9, 32, 32, 3), np.uint8))
    for name, message in (
        ("nan", "mean of the features holds values that are not finite"), ("size", "statistics of 9 features"),
        ("large", "images are 32 x 32, expected 16 x 16"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            evaluate_generation(replace(config, data=str(tmp_path / f"{name}.npz")))
    (Path(config.data) / "red").rename(Path(config.data) / "rde")
    with pytest.raises(ValueError, match=r"its class 'rde' is none of the model's \(.*\); did you mean red"):
        evaluate_generation(config)
    assert not Path(config.out).exists()


def test_class_accuracy_is_by_name(config: GenerationEvaluation, tmp_path: Path, image_folder: Make) -> None:
    """Images that are their classes' own means in the data: each is told, whatever classes either side lacks."""
    data, images = Path(config.data), tmp_path / "measured"
    for title in CLASS_NAMES:
        for path in (data / title).glob("*.png"):
            toy_image(CLASS_NAMES.index(title), 0).save(path)
    shutil.copytree(data, images)
    one = replace(config, images=str(images), count=100)

    def told() -> tuple[float | None, dict | None]:
        report = evaluate_generation(one)
        return report["mean"].get("class_accuracy"), report["classes"]

    assert told() == (1.0, {"compared": 3, "chance": 1 / 3, "images": 24})
    shutil.rmtree(data / "blue")
    assert told() == (1.0, {"compared": 2, "chance": 1 / 2, "images": 16})
    (images / "green").rename(images / "grass")
    assert told() == (1.0, {"compared": 2, "chance": 1 / 2, "images": 8})
    (images / "red").rename(images / "rust")
    assert told() == (None, None)


def test_a_models_classes_are_matched_by_name(config: GenerationEvaluation, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(Path(config.data) / "green")
    report = evaluate_generation(replace(config, sets=1))
    assert report["classes"] == {"compared": 2, "chance": 1 / 2, "images": 8}
    assert "has none of 1 of the model's 3 classes (green)" in caplog.text
    drawn = load_file(Path(config.out) / "features" / "set-00" / "00000.safetensors")
    assert drawn["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1], "as the model numbers them"


@pytest.mark.parametrize("part", ["tokenizer", "transformer"])
def test_weights_that_are_no_numbers_give_no_figures(
    config: GenerationEvaluation, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, part: str
) -> None:
    path = model_folder / part / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith(("decoder.", "blocks.")) and name.endswith("weight"))
    save_file(tensors | {name: tensors[name] * float("nan")}, path)
    model = ["--model", config.model, "--data", config.data, "--out", str(tmp_path / "out")]
    commands = [["generation", "--features", "small-6", "--count", "6"], ["likelihood", "--count", "6"]]
    commands.append(["reconstruction", "--features", "none", "--perceptual", "none", "--count", "6"])
    for command in commands:
        if command[0] == ("likelihood" if part == "tokenizer" else "reconstruction"):
            continue  # do without these weights
        capsys.readouterr()
        assert main(["evaluate", *command, *model]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert any(text in error for text in ("not numbers", "not finite")), error
        assert not (tmp_path / "out" / "report.json").exists()
    if part == "tokenizer":
        assert main(["generate", "--model", config.model, "--count", "2", "--out", str(tmp_path / "images")]) == 2
        assert "images hold values that are not finite" in capsys.readouterr().err
