"""Evaluations of a model of prompts: captions of the real images are its prompts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nextscale.bench.cost import model_flops
from nextscale.cli import main
from nextscale.evaluation.config import GenerationEvaluation
from nextscale.evaluation.prompts import heldout_prompts
from nextscale.text import text_prompts
from toys import CLASS_NAMES, TEXT, make_pipeline, make_transformer, toy_image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for label, name in enumerate(CLASS_NAMES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            toy_image(label, number).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def test_prompts_come_from_the_real_images(images: Path, tmp_path: Path, small_features: None) -> None:
    make_pipeline(text=TEXT).save_pretrained(tmp_path / "model")
    command = ["evaluate", "generation", "--model", str(tmp_path / "model"), "--data", str(images), "--count", "6"]
    command += ["--features", "small-6", "--out", str(tmp_path / "out"), "--caption-template"]
    assert main([*command, "a {name}"]) == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert len(settings["prompts"]) == 64
    assert main([*command, "the {name}"]) == 2, "other prompts are another evaluation"


def test_captions_are_needed(images: Path) -> None:
    known = {"data": str(images), "count": 100}
    assert heldout_prompts(GenerationEvaluation(caption_template="a {name}", **known))[:5] == ("a blue",) * 4 + (
        "a green",
    )
    for data in (images, "reference.npz"):
        with pytest.raises(ValueError, match="has no captions, which a model of prompts is evaluated with"):
            heldout_prompts(GenerationEvaluation(data=str(data), count=9))


@torch.no_grad()
def test_the_text_is_in_the_cost() -> None:
    costs = []
    cases: list[dict[str, Any]] = [{}, {"text": TEXT}]
    for changes in cases:
        model = make_transformer(depth=3, **changes)
        wanted = text_prompts(TEXT, ["a b c d e"]) if changes else torch.tensor([0])
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(1, 29, 8), wanted)
        costs.append((counter.get_total_flops(), model_flops(model.config, sequences=1).total))
    (counted, expected), (counted_text, expected_text) = costs
    assert counted_text - counted == pytest.approx(expected_text - expected, rel=0.02)
