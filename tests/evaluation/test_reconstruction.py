"""`evaluate reconstruction` against the parts it is made of."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nextscale import TokenPyramid
from nextscale.catalogue import find_model
from nextscale.cli import main
from nextscale.data.loader import iterate_images
from nextscale.data.source import open_source
from nextscale.evaluation.features import load_features
from nextscale.evaluation.metrics import FeatureStatistics, frechet_distance
from nextscale.evaluation.reconstruction import (
    ReconstructionEvaluation,
    disturbed_tokens,
    evaluate_reconstruction,
    psnr,
    structural_similarity,
)
from nextscale.nn.perceptual import PerceptualDistance
from nextscale.pictures import to_float, to_uint8
from nextscale.tokenizer.quantizer import nearest_others
from toys import make_tokenizer

Make = Callable[..., Path]


@pytest.fixture
def config(
    image_folder: Make, model_folder: Path, mobilenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ReconstructionEvaluation:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ReconstructionEvaluation(
        data=str(image_folder()), model=str(model_folder), out=str(tmp_path / "out"), count=20, precision="fp32",
        features="mobilenet_v2", feature_weights=mobilenet, perceptual="mobilenet_v2", perceptual_weights=mobilenet,
        batch_size=7,
    )  # fmt: skip


def test_figures_are_those_of_the_parts(config: ReconstructionEvaluation) -> None:
    report, strips = evaluate_reconstruction(replace(config, count=24))
    tokenizer = find_model(config.model).tokenizer().eval()
    images = to_float(next(iterate_images(open_source(config.data), (16, 16), batch_size=24)).images)
    tokens = tokenizer.encode(images)
    stages = [to_float(to_uint8(stage)) for stage in tokenizer.decode_scales(tokens)]
    assert report["count"] == 24 and strips.shape == (12, 5, 3, 16, 16)
    assert report["psnr_after_scale"] == pytest.approx([float(psnr(images, s).mean()) for s in stages], abs=1e-3)
    assert report["psnr"] == report["psnr_after_scale"][-1]
    assert report["ssim"] == pytest.approx(float(structural_similarity(stages[-1], images).mean()), abs=1e-4)
    distance = PerceptualDistance("mobilenet_v2", weights=config.perceptual_weights)
    assert report["perceptual"]["distance"] == pytest.approx(float(distance(stages[-1], images)), rel=1e-3)
    used = len(torch.unique(tokens.packed)) / 32
    assert report["codebook"]["used"] == pytest.approx(used)
    network = load_features(config.features, config.feature_weights)
    one, two = (FeatureStatistics.of(network(x)) for x in (stages[-1], images))
    assert report["frechet_to_originals"] == pytest.approx(frechet_distance(one, two), rel=1e-2)
    assert "floor" not in report, "24 images leave no others"


def test_with_enough_images_there_are_others_to_compare_with(config: ReconstructionEvaluation) -> None:
    report, _ = evaluate_reconstruction(replace(config, count=10))
    assert report["floor"]["count"] == report["to_others"]["count"] == report["count"] == 10
    assert report["floor"]["frechet"] > 0 and report["floor"]["precision"] is not None


def test_disturbed_figures_lie_beside_the_clean_ones(config: ReconstructionEvaluation) -> None:
    clean, _ = evaluate_reconstruction(replace(config, count=10))
    config = replace(config, count=10, disturb=0.5, disturb_codes=4, seed=5)
    report, _ = evaluate_reconstruction(config)
    disturbed = report.pop("disturbed")
    assert report == clean
    again, _ = evaluate_reconstruction(replace(config, batch_size=10))
    assert again["disturbed"]["psnr"] == pytest.approx(disturbed["psnr"], abs=1e-4), "not by its place in a batch"
    other, _ = evaluate_reconstruction(replace(config, seed=6))
    assert other["disturbed"]["psnr"] != pytest.approx(disturbed["psnr"], abs=1e-4)
    assert (disturbed["share"], disturbed["nearest_codes"], disturbed["seed"]) == (0.5, 4, 5)
    assert disturbed["psnr"] != pytest.approx(clean["psnr"], abs=1e-4)
    assert disturbed["frechet_to_originals"] != clean["frechet_to_originals"]
    assert disturbed["to_others"]["count"] == 10 and disturbed["perceptual"]["name"] == "mobilenet_v2"
    with pytest.raises(ValueError, match="disturb must be between 0 and 1, got 2"):
        replace(config, disturb=2)


def test_images_are_disturbed_one_by_one() -> None:
    tokenizer = make_tokenizer()
    others = nearest_others(tokenizer.quantizer.codes(), 3)
    packed = torch.randint(32, (4, 30), generator=torch.Generator().manual_seed(0))
    found = disturbed_tokens(TokenPyramid(packed, tokenizer.schedule), others, 0.5, range(7, 11)).packed
    for row, seed, image in zip(found, range(7, 11), packed, strict=True):
        generator = torch.Generator().manual_seed(seed)
        picks = torch.randint(3, (1, 30), generator=generator)[0].tolist()
        chances = torch.rand((1, 30), generator=generator)[0].tolist()
        slow = [
            int(others[token, pick]) if chance < 0.5 else token
            for token, pick, chance in zip(image.tolist(), picks, chances, strict=True)
        ]
        assert row.tolist() == slow


def test_similarity_of_known_images() -> None:
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.allclose(structural_similarity(images, images), torch.ones(3), atol=1e-5)
    black, white = torch.full((1, 3, 16, 16), -1.0), torch.full((1, 3, 16, 16), 1.0)
    # Constant images of means -1 and 1 over a range of 2: (2 m1 m2 + c1) / (m1^2 + m2^2 + c1), c1 = (0.01 x 2)^2.
    c1 = 0.02**2
    assert float(structural_similarity(black, white)) == pytest.approx((-2 + c1) / (2 + c1), abs=1e-4)


def test_the_command_writes_report_and_pictures(
    config: ReconstructionEvaluation, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["evaluate", "reconstruction", "--data", config.data, "--model", config.model, "--count", "10"]
    flags = ["--features", "none", "--perceptual", "none", "--out", str(tmp_path / "out")]
    assert main([*command, *flags, "--disturb", "0.25"]) == 0
    shown = capsys.readouterr().out
    assert "25% of the codes replaced by near ones: PSNR" in shown
    assert "PSNR" in shown and "SSIM" in shown and "perplexity" in shown
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["perceptual"] is report["disturbed"]["perceptual"] is None and "features" not in report
    assert (tmp_path / "out" / "strips.png").is_file() and (tmp_path / "out" / "scales.png").is_file()


def test_psnr_of_known_errors() -> None:
    images = torch.zeros(2, 3, 4, 4)
    noisy = images.clone()
    noisy[1] += 0.2  # a hundredth of the squared range
    assert psnr(images, noisy)[1].item() == pytest.approx(20, abs=1e-4)
    assert psnr(images, torch.stack([noisy, noisy])).shape == (2, 2)
