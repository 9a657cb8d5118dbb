"""StyleGAN-XL trains, continues to the bit, and grows: each time by its command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from nextscale import VARPipeline
from nextscale.cli import main
from nextscale.conditions import ClassLabels
from nextscale.config import read_json_lines
from toys import CLASS_NAMES, toy_image
from training.small_runs import weights

BACKBONE = "mobilenet_v3_small"
STEPS = ["--steps", "2", "--batch-size", "3", "--sample-every", "2", "--checkpoint-every", "1", "--log-every", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a backbone, a stem and what grew from it."""
    folder = tmp_path_factory.mktemp("style")
    for label, name in enumerate(CLASS_NAMES):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(3):
            toy_image(label, number).save(folder / "images" / name / f"{number}.png")
    torch.manual_seed(0)
    torch.save(get_model(BACKBONE, weights=None).state_dict(), folder / "backbone.pth")
    assert main(training(folder, "stem", "--preset", "tiny")) == 0
    assert main(training(folder, "grown", "--init-from", str(folder / "stem"), "--side", "32")) == 0
    return folder


def training(folder: Path, name: str, *options: str, **changes: str) -> list[str]:
    flags = {"backbone": BACKBONE, "backbone-weights": str(folder / "backbone.pth"), "resize": "128"}
    flags |= {"class-features": "576", "head-width": "4", "heldout-images": "3", "precision": "fp32"}
    named = [word for flag, value in (flags | changes).items() for word in (f"--{flag}", value)]
    data = ["--data", str(folder / "images"), "--out", str(folder / name)]
    return ["train", "stylegan-xl", *data, *STEPS, *named, *options]


def test_it_continues_to_the_bit(place: Path) -> None:
    shutil.copytree(place / "grown", place / "parts")
    shutil.rmtree(place / "parts" / "model")
    (place / "parts" / "checkpoints" / "step-00000002.pt").unlink()
    assert main(["train", "stylegan-xl", "--out", str(place / "parts"), "--resume"]) == 0
    assert weights(place / "parts") == weights(place / "grown")


def test_a_models_file_holds_the_generator_alone(place: Path) -> None:
    pipeline = VARPipeline.from_pretrained(place / "stem", dtype="fp32")
    assert {name.split(".")[0] for name in pipeline.transformer.state_dict()} == {"generator"}
    (first, *_) = read_json_lines(place / "stem" / "metrics.jsonl")
    assert {"discriminator", "generator", "score_real", "score_made", "gradient_norm_generator"} <= set(first)


def test_growth_trains_the_new_layers_alone(place: Path) -> None:
    stem, grown = (VARPipeline.from_pretrained(place / name, dtype="fp32").transformer for name in ("stem", "grown"))
    assert (grown.config.side, grown.config.grown_from, grown.config.classes) == (32, (16,), 3)
    kept = grown.generator.synthesis.frozen
    latents, seen = torch.randn(2, 8), []
    for model in (stem, grown):
        layer = model.generator.synthesis.layers[kept - 1]
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
        with torch.no_grad():
            model.generate(latents, ClassLabels(torch.tensor([0, 2]), 3))
    assert torch.equal(*seen), "what the stem draws stays as it was"
    vectors = [model.generator.mapping.class_embedding.weight for model in (stem, grown)]
    assert torch.equal(*vectors) and len(vectors[0].unique(dim=0)) == 4


def test_it_draws_in_one_step_with_truncation(place: Path) -> None:
    pipeline = VARPipeline.from_pretrained(place / "grown", dtype="fp32")
    alone, together = pipeline.generate(["red"], seeds=[7]), pipeline.generate(["blue", "red"], seeds=[3, 7])
    assert alone.images[0].size == (32, 32)
    assert alone.images[0].tobytes() == together.images[1].tobytes() != together.images[0].tobytes()
    average = pipeline.generate(["red"], seeds=[1, 2], truncation=0).images
    assert average[0].tobytes() == average[1].tobytes()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"preset": "small-16-64"}, "begins with one of 16: train that first"),
        ({"init-from": "STEM", "side": "8"}, "side must be a power of two from 16 on"),
        ({"preset": "tiny", "class-features": "7"}, "has features of 576 numbers: set --class-features 576"),
        ({"preset": "tiny", "resize": "100"}, "128 pixels or more, a multiple of 32, not 100"),
        ({"preset": "tiny", "backbone-weights": "missing.pth"}, "missing.pth: not a state dict of torchvision's"),
        ({"preset": "tiny", "backbone": "swin_t"}, "not a state dict of torchvision's swin_t"),
    ],
)
def test_bad_input_is_a_line(
    place: Path, changes: dict[str, str], complaint: str, capsys: pytest.CaptureFixture
) -> None:
    changes = {name: str(place / "stem") if value == "STEM" else value for name, value in changes.items()}
    assert main(training(place, "refused", **changes)) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert not (place / "refused").exists()
