"""A model of one step through every command: R3GAN trains, continues, draws, is measured, compared and shown."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextscale import VARPipeline
from nextscale.cli import main
from nextscale.config import read_json_lines
from nextscale.families.r3gan import R3GAN
from nextscale.nn.perceptual import weights_at_hand
from nextscale.training import collapse
from nextscale.training.collapse import RandomFeatures, Watch, features, warn_of_collapse
from nextscale.training.config import training_settings
from nextscale.training.optimisation import averaging_decay, betas, learning_rate
from nextscale.training.stage2 import train_transformer
from toys import CLASS_NAMES, make_pipeline, pixels, toy_image
from training.small_runs import lines, weights

STEPS = ["--steps", "4", "--batch-size", "4", "--sample-every", "4", "--checkpoint-every", "2", "--log-every", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training."""
    place = tmp_path_factory.mktemp("one-step")
    for label, name in enumerate(CLASS_NAMES):
        (place / "images" / name).mkdir(parents=True)
        for number in range(12):
            toy_image(label, number).save(place / "images" / name / f"{number}.png")
    assert main(training(place, "run")) == 0
    return place / "run"


def training(place: Path, name: str) -> list[str]:
    images = str(place / "images")
    data = ["--data", images, "--heldout", images, "--precision", "fp32", "--out", str(place / name)]
    return ["train", "r3gan", "--preset", "tiny", *data, *STEPS, "--augment", "0.5"]


def test_it_continues_to_the_bit(run: Path) -> None:
    assert main(training(run.parent, "parts")) == 0
    (run.parent / "parts" / "checkpoints" / "step-00000004.pt").unlink()
    assert main([*training(run.parent, "parts"), "--resume"]) == 0
    assert weights(run) == weights(run.parent / "parts") and lines(run) == lines(run.parent / "parts")


@pytest.mark.parametrize("changes", [{"compile": True}, {"precision": "fp16"}, {"guidance": 1.5}])
def test_what_it_has_not_is_refused(run: Path, changes: dict) -> None:
    settings: Any = training_settings("r3gan")
    config = settings(data=str(run.parent / "images"), out=str(run.parent / "refused"), **changes)
    with pytest.raises(ValueError, match=f"{next(iter(changes))}.* is not for adversarial"):
        train_transformer(config)
    assert not (run.parent / "refused").exists()


def test_its_figures_are_logged(run: Path) -> None:
    first, *_, last = read_json_lines(run / "metrics.jsonl")
    assert {"discriminator", "generator", "margin", "r1", "r2", "gradient_norm_generator"} <= set(first)
    assert {"heldout_discriminator", "heldout_generator", "recall", "coverage"} <= set(last)
    assert 0 <= last["recall"] <= 1 and (run / "samples" / "00000004.png").is_file()


def test_only_the_generator_is_averaged(run: Path) -> None:
    state = torch.load(run / "checkpoints" / "step-00000004.pt", weights_only=True)
    average, discriminator = state["average"], state["discriminator"]["model"]
    generator = state["generator"]["model"]
    assert all(torch.equal(average[f"module.discriminator.{name}"], value) for name, value in discriminator.items())
    changed = [name for name, value in generator.items() if not torch.equal(average[f"module.generator.{name}"], value)]
    assert changed, "an average is behind"


def test_it_draws_with_truncation_and_keeps_one_as_default(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    draw = ["generate", "--model", str(run), "--classes", "red", "--count", "2", "--out", str(tmp_path / "drawn")]
    assert main([*draw, "--truncation", "0"]) == 0
    files = [(tmp_path / "drawn" / f"{number:06d}.png").read_bytes() for number in (0, 1)]
    assert files[0] == files[1], "the average of the class"
    capsys.readouterr()
    assert main([*draw[:-1], str(tmp_path / "guided"), "--guidance", "2"]) == 2
    assert "guidance is not for this model" in capsys.readouterr().err and not (tmp_path / "guided").exists()
    assert main(["convert", str(run), "--truncation", "0.7", "--out", str(tmp_path / "tame")]) == 0
    tame = VARPipeline.from_pretrained(tmp_path / "tame")
    assert tame.sampling().truncation == 0.7 and tame.family.parameters(tame.transformer) < 0.6 * sum(
        parameter.numel() for parameter in tame.transformer.parameters()
    )
    with pytest.raises(ValueError, match="truncation is for models of one step; this model is next-scale"):
        make_pipeline().generate(["red"], seeds=[0], truncation=0.5)


def test_it_is_measured_swept_and_compared(run: Path, tmp_path: Path, small_features: None) -> None:
    data = ["--data", str(run.parent / "images"), "--features", "small-6"]
    sweep = ["evaluate", "generation", "--model", str(run), *data, "--count", "12", "--out", str(tmp_path / "swept")]
    assert main([*sweep, "--sweep", "--truncations", "0.5,1"]) == 0
    report = json.loads((tmp_path / "swept" / "report.json").read_text())
    assert report["dial"] == "truncation" and [point["truncation"] for point in report["points"]] == [0.5, 1]
    assert {"precision", "recall", "frechet"} <= set(report["points"][0]) and "top_p" not in report["points"][0]
    assert (tmp_path / "swept" / "sweep.png").is_file()
    assert main([*sweep, "--sweep", "--guidances", "1"]) == 2
    make_pipeline().save_pretrained(tmp_path / "var")
    compare = ["compare", str(run), str(tmp_path / "var"), *data, "--count", "6", "--sets", "1", "--rounds", "1"]
    compare += ["--guidances", "0,1", "--tuning-count", "6", "--time-batches", "1", "--out", str(tmp_path / "compared")]
    assert main(compare) == 0
    ours, other = json.loads((tmp_path / "compared" / "report.json").read_text())["models"]
    assert (ours["steps"], ours["bits"], ours["sampling"]["guidance"]) == (1, None, 0) and other["steps"] == 4
    assert ours["flops_per_image"] > 0 and ours["training_flops"] == 16 * 19 * ours["flops_per_image"]


def test_it_is_shown_and_served(run: Path) -> None:
    pytest.importorskip("gradio")
    from nextscale.studio.compare import race
    from nextscale.studio.desk import Desk
    from nextscale.studio.generate import generate_live, sampling_controls

    pipeline = VARPipeline.from_pretrained(run)
    desk = Desk(pipeline, "gan", rival=make_pipeline())
    try:
        assert set(sampling_controls(pipeline)) == {"truncation"}
        frames = list(generate_live(desk, "red", 2, 0, truncation=0.5))
        assert frames[0].status == "Step 1" and len(frames[-1].files or ()) == 2
        *_, racers = race([desk.pipeline, make_pipeline()], "red", 0)
        assert [len(racer.taken) for racer in racers] == [1, 4]
    finally:
        desk.close()
    pytest.importorskip("ray")
    from nextscale.server.jobs import generation_jobs
    from nextscale.server.local import card_of, run_jobs
    from nextscale.server.schema import GenerationRequest
    from nextscale.server.settings import ServerSettings

    card = card_of(pipeline, "gan")
    (job,) = generation_jobs(GenerationRequest(prompt="red", seed=7, truncation=0.5), card, ServerSettings())
    ((stage,),) = run_jobs(pipeline, [job], lambda row: True)
    assert (
        stage is not None
        and stage.image.tobytes()
        == np.asarray(pipeline.generate(["red"], seeds=[7], truncation=0.5).images[0]).tobytes()
    )
    with pytest.raises(ValueError, match="guidance is not for this model"):
        generation_jobs(GenerationRequest(prompt="red", guidance=2.0), card, ServerSettings())


def test_a_generator_that_makes_one_image_is_said_to_have_collapsed(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(collapse, "feature_network", lambda: (RandomFeatures(), "random filters"))
    images = torch.cat([pixels(toy_image(number % 3, number)) for number in range(24)])
    watch = Watch(images, torch.arange(24) % 3)
    pipeline = VARPipeline.from_pretrained(run)
    same = images[:1].expand(24, -1, -1, -1)
    monkeypatch.setattr(R3GAN, "generate", lambda model, latents, conditions, *, truncation: same[: len(latents)])
    figures = watch.figures(pipeline)
    assert figures["recall"] < 0.05 and "random filters" in watch.line(figures)
    with caplog.at_level(logging.WARNING, "nextscale.training"):
        warn_of_collapse(figures, 1, 10)
        warn_of_collapse({"recall": 0.4}, 9, 10)
        assert not caplog.records, "it has not learned yet; it makes many"
        warn_of_collapse(figures, 9, 10)
    assert "mode collapse" in caplog.text
    from nextscale.evaluation.metrics import compare_manifolds

    others = torch.cat([pixels(toy_image(number % 3, 100 + number)) for number in range(24)])
    assert compare_manifolds(features(watch.network, others), watch.real).recall > 0.3


def test_weights_are_found_where_torch_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert not weights_at_hand("mobilenet_v2")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mobilenet_v2-b0353104.pth").touch()
    assert weights_at_hand("mobilenet_v2")


def test_what_changes_along_a_cosine() -> None:
    settings: Any = training_settings("r3gan")
    optimiser = settings(data="d", out="o").optimiser
    rates = [learning_rate(step, 5, optimiser, 64) for step in range(5)]
    assert rates[0] == 2e-4 and rates[2] == pytest.approx(1.25e-4) and rates[4] == pytest.approx(5e-5)
    assert [betas(step, 3, optimiser)[1] for step in range(3)] == pytest.approx([0.9, 0.945, 0.99])
    decays = [averaging_decay(step, 1001, optimiser) for step in (0, 500, 1000)]
    assert decays[0] == 0 and decays[1] == pytest.approx(0.5 ** (1 / 12.5), rel=1e-2)
    assert decays[2] == pytest.approx(0.5 ** (1 / 25.025))
