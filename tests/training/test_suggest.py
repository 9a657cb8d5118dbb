"""Suggestions follow the data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from nextscale.bench.cost import training_flops
from nextscale.cli import main
from nextscale.config import from_dict, read_json
from nextscale.data.source import ImageSource, open_source
from nextscale.families.config import family_presets
from nextscale.tokenizer.config import small_scales, tokenizer_presets
from nextscale.tokenizer.vqvae import VQVAE, VQVAEConfig
from nextscale.training.config import TokenizerTraining, TransformerTraining, training_settings
from nextscale.training.suggest import (
    EVENING,
    TOKENIZER_FLOPS,
    suggest_one_step,
    suggest_tokenizer,
    suggest_transformer,
)
from toys import FAMILY_SCALES

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("side", "size", "enlarge"), [(16, 32, 1.0), (64, 64, 1.0), (80, 64, 1.125), (300, 128, 1.125)]
)
def test_the_preset_follows_the_images_size(image_folder: Make, side: int, size: int, enlarge: float) -> None:
    suggestion = suggest_tokenizer(open_source(image_folder(per_class=3, side=side)), "cpu")
    config = from_dict(TokenizerTraining, {"data": "d", "out": "o"} | suggestion.settings)
    assert config.model.image_size == (size, size)
    assert (config.enlarge, config.batch_size, config.steps, config.model.codebook_size) == (enlarge, 9, 2000, 1024)
    about = f"9 images, typically {side} pixels wide or high, and an evening on cpu: --preset small-{size} "
    assert suggestion.reason.startswith(about)
    assert "--steps 2000" in suggestion.reason


class Many(ImageSource):
    """As many images as wanted, all the same."""

    def __init__(self, count: int, side: int) -> None:
        super().__init__([Path("x")] * count, None, ())
        object.__setattr__(self, "side", side)

    def read(self, index: int) -> tuple[Image.Image, None]:
        return Image.new("RGB", (self.side, self.side)), None


@pytest.mark.parametrize(
    ("count", "side", "device", "preset", "steps"),
    [
        (5_780, 128, "cpu", "small-64", 6_000),  # small-128 would see 48,000 images in an evening
        (5_780, 128, "cuda", "small-128", 20_000),
        (5_780, 64, "cpu", "small-64", 6_000),
        (200, 128, "cpu", "small-128", 1_500),
    ],
)
def test_an_evening_is_enough_for_a_tokenizer(count: int, side: int, device: str, preset: str, steps: int) -> None:
    suggestion = suggest_tokenizer(Many(count, side), device)
    assert (suggestion.flags["preset"], suggestion.settings["steps"]) == (preset, steps)
    spent = TOKENIZER_FLOPS[preset] * suggestion.settings["batch_size"] * suggestion.settings["steps"]
    assert spent <= EVENING[device]


@pytest.mark.parametrize("preset", TOKENIZER_FLOPS)
def test_what_training_a_tokenizer_costs(preset: str) -> None:
    config = tokenizer_presets()[preset]
    with torch.device("meta"):
        model, image = VQVAE(config), torch.empty(1, 3, *config.image_size)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.decoder(model.post_quant_conv(model.features(image)))
    assert TOKENIZER_FLOPS[preset] == pytest.approx(3 * counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize(
    ("count", "final", "device", "depth", "batch", "steps"),
    [
        (50, 8, "cpu", 4, 50, 3_000),
        (5_780, 8, "cpu", 4, 64, 5_500),
        (5_780, 16, "cpu", 4, 64, 1_000),
        (10_000, 8, "cuda", 6, 64, 15_700),
        (1_281_167, 16, "cuda", 10, 64, 24_400),
        (1_281_167, 8, "cuda", 16, 64, 29_100),
    ],
)
def test_depth_and_steps_follow_the_images_and_the_evening(
    count: int, final: int, device: str, depth: int, batch: int, steps: int
) -> None:
    tokenizer = VQVAEConfig(scales=small_scales(final), codebook_size=1024)
    settings = suggest_transformer(count, "var", tokenizer, device).settings
    config = from_dict(TransformerTraining, {"data": "d", "out": "o", "tokenizer": "t"} | settings)
    assert (config.model.depth, config.batch_size, config.steps) == (depth, batch, steps)
    assert config.model.heads == depth
    trained = from_dict(type(config.model), settings["model"] | {"scales": tokenizer.scales, "codebook_size": 1024})
    assert training_flops(trained) * batch * steps <= EVENING[device]


@pytest.mark.parametrize("kind", FAMILY_SCALES)
def test_every_kind_of_model_is_suggested(kind: str) -> None:
    scales = small_scales(8) if kind == "var" else ((8, 8),) * 4 if kind == "rq" else ((8, 8),)
    settings = suggest_transformer(100, kind, VQVAEConfig(scales=scales), "cpu").settings
    assert settings["model"]["depth"] == 4 and settings["steps"] <= 3_000


def test_models_of_one_step_are_suggested_by_images_alone(image_folder: Make) -> None:
    source = open_source(str(image_folder(per_class=2)))
    suggestion = suggest_one_step(source, "r3gan", "cpu")
    config: Any = from_dict(training_settings("r3gan"), {"data": "d", "out": "o"} | suggestion.settings)
    assert config.model == family_presets("r3gan")["small"] and config.batch_size == 6 and config.steps == 3_000
    assert suggestion.reason.startswith("6 images at 64 pixels, and an evening on cpu: --preset small")


def test_what_is_named_is_not_suggested() -> None:
    suggestion = suggest_transformer(10_000, "var", VQVAEConfig(scales=small_scales(8)), "cpu")
    assert suggestion.without({"steps"}).reason.endswith("--preset small --depth 4 --batch-size 64")
    rest = suggestion.without({"model", "batch_size"})
    assert list(rest.flags) == list(rest.settings) == ["steps"]
    assert suggestion.without({"model", "batch_size", "steps"}).flags == {}


def test_commands_say_what_they_chose_and_flags_override(tmp_path: Path, image_folder: Make, capsys) -> None:
    data, out = str(image_folder(per_class=3)), tmp_path / "one"
    small = ["--steps", "1", "--channels", "16", "--heldout-images", "2", "--precision", "fp32"]
    assert main(["train", "tokenizer", "--data", data, "--out", str(out), *small]) == 0
    said = capsys.readouterr()
    assert "9 images, typically 16 pixels wide or high, and an evening on cpu: --preset small-32" in said.out
    assert "--steps" not in said.out, "what was named is not suggested"
    assert said.out.splitlines()[-1] == str(out / "model")
    assert said.err.splitlines()[-1] == f"next: nextscale tokenize --tokenizer {out} --data {data} --out {out}-tokens"
    recorded = read_json(out / "config.json")
    assert (recorded["steps"], recorded["batch_size"], recorded["model"]["channels"]) == (1, 9, 16)
    two = ["train", "var", "--tokenizer", str(out), "--data", data, "--out", str(tmp_path / "two")]
    assert main([*two, "--steps", "1", "--depth", "1", "--precision", "fp32"]) == 0
    assert "9 images of 130 tokens, and an evening on cpu: --preset small --batch-size 9" in capsys.readouterr().out
    assert read_json(tmp_path / "two" / "config.json")["model"]["depth"] == 1
