"""`evaluate likelihood` against sums by hand."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nextscale.cli import main
from nextscale.data.loader import iterate_images
from nextscale.data.source import open_source
from nextscale.evaluation.likelihood import LikelihoodEvaluation, evaluate_likelihood
from nextscale.pictures import to_float
from nextscale.pipeline import VARPipeline
from toys import make_baseline

Make = Callable[..., Path]


@pytest.fixture
def config(image_folder: Make, model_folder: Path) -> LikelihoodEvaluation:
    return LikelihoodEvaluation(
        data=str(image_folder()), model=str(model_folder), count=24, classify=24, precision="fp32", batch_size=5
    )


def test_figures_are_sums_by_hand(config: LikelihoodEvaluation) -> None:
    report = evaluate_likelihood(config)
    pipeline = VARPipeline.from_pretrained(config.model, dtype="fp32")
    source = open_source(config.data)
    batch = next(iterate_images(source, (16, 16), batch_size=24))
    tokens = pipeline.tokenizer.encode(to_float(batch.images))
    assert report["count"] == 24
    for name, classes in (("with_class", batch.labels.tolist()), ("without_class", [None])):
        logits = pipeline.logits(tokens, classes).double()
        losses = logits.logsumexp(-1) - logits.gather(-1, tokens.packed[..., None]).squeeze(-1)
        right = (logits.argmax(-1) == tokens.packed).double()
        ours = report[name]
        assert ours["nats_per_token"] == pytest.approx(float(losses.mean()), rel=1e-5)
        assert ours["accuracy"] == pytest.approx(float(right.mean()))
        assert ours["bits_per_pixel"] == pytest.approx(float(losses.sum(1).mean()) / math.log(2) / 256, rel=1e-5)
        assert ours["nats_per_token_by_scale"][2] == pytest.approx(float(losses[:, 5:14].mean()), rel=1e-5)
        assert ours["accuracy_by_scale"][0] == pytest.approx(float(right[:, 0].mean()))
    told = pipeline.class_log_likelihoods(tokens).argmax(dim=1)
    assert report["classification"] == {
        "count": 24, "accuracy": pytest.approx(float((told == batch.labels).float().mean())), "chance": 1 / 3,
    }  # fmt: skip


def test_without_classes_only_the_unconditional_figures(config: LikelihoodEvaluation, image_folder: Make) -> None:
    flat = replace(config, data=str(image_folder("flat", flat=True)), classify=0)
    report = evaluate_likelihood(flat)
    assert "with_class" not in report and "classification" not in report
    assert report["without_class"]["nats_per_token"] > 0
    with pytest.raises(ValueError, match="needs a model with classes and images with labels"):
        evaluate_likelihood(replace(flat, classify=4))


def test_nearest_means_need_other_images(config: LikelihoodEvaluation) -> None:
    with pytest.raises(ValueError, match="need other images of every class than the 24 that are told"):
        evaluate_likelihood(replace(config, features="mobilenet_v2"))


def test_labels_the_model_does_not_know_are_refused(config: LikelihoodEvaluation) -> None:
    more = Path(config.data) / "violet"
    more.mkdir()
    next((Path(config.data) / "red").iterdir()).rename(more / "1.png")
    with pytest.raises(ValueError, match=r"its class 'violet' is none of the model's \(blue, green, red\)"):
        evaluate_likelihood(config)


def test_classes_are_matched_by_name(config: LikelihoodEvaluation, caplog: pytest.LogCaptureFixture) -> None:
    """Images of one class give the same figures beside any others, and under any name of theirs that is known."""
    caplog.set_level("INFO", "nextscale")
    data = Path(config.data)
    pipeline = VARPipeline.from_pretrained(config.model, dtype="fp32")
    source = open_source(data)
    batch = next(iterate_images(source, (16, 16), batch_size=24))
    tokens = pipeline.tokenizer.encode(to_float(batch.images))
    guesses = pipeline.class_log_likelihoods(tokens).argmax(dim=1)
    shutil.rmtree(data / "blue")
    kept = batch.labels > 0
    logits = pipeline.logits(tokens.select(kept), batch.labels[kept].tolist()).double()
    losses = logits.logsumexp(-1) - logits.gather(-1, tokens.packed[kept][..., None]).squeeze(-1)
    for names in (("green", "red"), ("1", "2"), ("GREEN", "Red")):
        report = evaluate_likelihood(config)
        assert report["with_class"]["nats_per_token"] == pytest.approx(float(losses.mean()), rel=1e-5), names
        told = float((guesses == batch.labels)[kept].float().mean())
        assert report["classification"] == {"count": 16, "accuracy": pytest.approx(told), "chance": 1 / 3}
        for old, new in zip(sorted(data.iterdir(), key=lambda path: path.name.casefold()), ("1", "2"), strict=True):
            old.rename(data / new) if names == ("green", "red") else old.rename(data / {"1": "GREEN", "2": "Red"}[new])
    assert "has none of 1 of the model's 3 classes (blue)" in caplog.text
    assert "its classes are numbers, taken as ids of the model's 3 classes" in caplog.text


def test_the_command_shows_and_keeps_the_report(
    config: LikelihoodEvaluation, mobilenet: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["evaluate", "likelihood", "--data", config.data, "--model", config.model, "--count", "6"]
    network = ["--features", "mobilenet_v2", "--feature-weights", mobilenet]
    assert main([*command, "--classify", "6", *network, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "nats per token" in shown and "chance 33.33%" in shown and "nearest class mean in mobilenet_v2" in shown
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["classification"]["means_of"] == 18 and report["classification"]["nearest_chance"] == 1 / 3
    assert 0 <= report["classification"]["nearest_class_mean"] <= 1


def test_models_without_likelihoods_are_refused(config: LikelihoodEvaluation, tmp_path: Path) -> None:
    make_baseline("maskgit").save_pretrained(tmp_path / "maskgit")
    with pytest.raises(ValueError, match="gives no probabilities of token pyramids"):
        evaluate_likelihood(replace(config, model=str(tmp_path / "maskgit")))
