"""Evaluation of generated images: sharing, continuing, other images, and torch-fidelity's figures."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.cli import main
from nextscale.data.source import open_source
from nextscale.evaluation import sampled
from nextscale.evaluation.features import identity
from nextscale.evaluation.generation import GenerationEvaluation, evaluate_generation
from nextscale.evaluation.image_sets import ArrayImages, batches, open_image_set
from nextscale.evaluation.reference import balanced_order
from nextscale.pipeline import VARPipeline
from nextscale.runtime import Processes
from toys import SmallFeatures, make_pipeline

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, small_features: None) -> None:
    monkeypatch.setattr(sampled, "SHARD", 8)


@pytest.fixture
def config(tmp_path: Path, image_folder: Make, model_folder: Path) -> GenerationEvaluation:
    return GenerationEvaluation(
        data=str(image_folder(per_class=20)), model=str(model_folder), out=str(tmp_path / "out"), count=21, sets=2,
        features="small-50", device="cpu", precision="fp32", batch_size=4,
    )  # fmt: skip


def test_reports_are_the_same_however_they_are_made(
    config: GenerationEvaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = evaluate_generation(config)
    assert len(whole["sets"]) == 2 and whole["count"] == 21
    assert whole["sets"][0] != whole["sets"][1], "sets have seeds of their own"
    assert whole["floor"]["frechet"] > 0 and whole["reference"]["count"] == 21
    assert whole["deviation"]["frechet"] > 0

    shared = replace(config, out=str(tmp_path / "shared"))
    assert evaluate_generation(shared, processes=Processes(rank=0, world=1)) == whole
    for file in sorted((tmp_path / "shared" / "features").rglob("*.safetensors"))[1::2]:
        file.unlink()  # as after a run that was stopped
    drawn: list[int] = []
    original = sampled.draw_shard

    def counted(*arguments: object) -> object:
        drawn.append(1)
        return original(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(sampled, "draw_shard", counted)
    assert evaluate_generation(shared) == whole
    assert len(drawn) == 3, "of six shards those that were missing"

    parts = replace(config, out=str(tmp_path / "parts"))
    drawn.clear()
    with pytest.raises(ValueError, match="not a readable file of features"):  # of the other process, not there yet
        evaluate_generation(parts, processes=Processes(rank=0, world=2))
    assert len(drawn) == 3
    assert evaluate_generation(parts, processes=Processes(rank=1, world=2)) == {}
    assert len(drawn) == 6
    assert evaluate_generation(parts, processes=Processes(rank=0, world=2)) == whole


def test_another_model_or_setting_is_refused(config: GenerationEvaluation) -> None:
    evaluate_generation(config)
    with pytest.raises(ValueError, match="holds an evaluation with other settings"):
        evaluate_generation(replace(config, guidance=3.0))
    with pytest.raises(ValueError, match="protocol 'x' is not known"):
        replace(config, protocol="x")
    settled = replace(config, protocol="imagenet256").settled()
    assert (settled.count, settled.guidance, settled.top_k, settled.top_p) == (50_000, 1.5, 900, 0.96)
    own = replace(config, guided_scales=2, temperatures=(2.0, 1.0), spatial_guidance=(0.5,))
    assert own.sampling()["guided_scales"] == 2 and own.sampling()["temperatures"] == (2.0, 1.0)
    assert own.sampling()["spatial_guidance"] == (0.5,)
    assert replace(own, protocol="imagenet256").settled() == settled


def test_the_command_writes_a_report(
    config: GenerationEvaluation, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ("data", "model", "features")
    flags = [part for name in given for part in (f"--{name.replace('_', '-')}", getattr(config, name))]
    command = ["evaluate", "generation", *flags, "--count", "12", "--precision", "fp32", "--batch-size", "4"]
    assert main([*command, "--out", str(tmp_path / "a"), "--json", str(tmp_path / "r.json"), "--keep-images"]) == 0
    shown = capsys.readouterr().out
    assert "Frechet distance" in shown and "real against real" in shown and "12 images" in shown
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == json.loads((tmp_path / "a" / "report.json").read_text())
    kept = tmp_path / "a" / "images" / "set-00"
    assert len(list(kept.glob("*.png"))) == 12
    again = ["evaluate", "generation", *flags, "--images", str(kept), "--count", "12", "--out", str(tmp_path / "b")]
    assert main([*again, "--json", str(tmp_path / "s.json")]) == 0
    measured = json.loads((tmp_path / "s.json").read_text())
    for name in ("frechet", "kernel", "precision", "recall", "density", "coverage"):
        assert measured["mean"][name] == pytest.approx(report["mean"][name], rel=1e-4, abs=1e-5), name


def test_a_set_against_itself_and_npz_files(config: GenerationEvaluation, tmp_path: Path) -> None:
    source = open_source(config.data)
    order = balanced_order(source)
    labels = np.asarray(source.labels)[order]
    assert [sorted(labels[i : i + 3].tolist()) for i in range(0, 60, 3)] == [[0, 1, 2]] * 20
    pixels = np.concatenate([np.asarray(source.read(i)[0])[None] for i in range(60)])
    np.savez(tmp_path / "images.npz", arr_0=pixels)
    stored = open_image_set(str(tmp_path / "images.npz"))
    assert isinstance(stored, ArrayImages) and len(stored) == 60
    ours = torch.cat([images for images, _ in batches(source, (16, 16), batch_size=7)])
    theirs = torch.cat([images for images, _ in batches(stored, (16, 16), batch_size=9)])
    assert torch.equal(ours, theirs)
    network = SmallFeatures(config.features)
    features = network(ours).double()
    np.savez(tmp_path / "statistics.npz", mu=features.mean(0).numpy(), sigma=torch.cov(features.T).numpy())
    images = replace(config, images=str(tmp_path / "images.npz"), count=60)
    report = evaluate_generation(replace(images, data=str(tmp_path / "statistics.npz")))
    assert report["mean"]["frechet"] == pytest.approx(0, abs=1e-4)
    assert report["floor"] is None and "precision" not in report["mean"]
    with pytest.raises(ValueError, match="what is measured must be images"):
        evaluate_generation(replace(images, images=str(tmp_path / "statistics.npz")))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"holds x \(3,\) float64; expected arr_0"):
        open_image_set(str(tmp_path / "other.npz"))
    np.savez(tmp_path / "float.npz", arr_0=pixels.astype(np.float32))
    with pytest.raises(ValueError, match="float32, expected uint8"):
        open_image_set(str(tmp_path / "float.npz"))


def test_pictures_and_packed_images(config: GenerationEvaluation, tmp_path: Path) -> None:
    packed = replace(config, npz=str(tmp_path / "packed.npz"), statistics=str(tmp_path / "real.npz"))
    report = evaluate_generation(packed)
    out = Path(config.out)
    samples, nearest = Image.open(out / "samples.png"), Image.open(out / "nearest.png")
    assert samples.size == (7 * 18 - 2, 3 * 18 - 2), "three classes, seven images each"
    assert nearest.size == (7 * 18 - 2, 8 * 18 - 2), "eight images, each with six neighbours"
    kept = sorted((out / "images" / "set-00").glob("*.png"))
    for row, number in enumerate((0, 3, 6)):  # the first class's images are its row
        first = np.asarray(samples)[:16, row * 18 : row * 18 + 16]
        assert np.array_equal(first, np.asarray(Image.open(kept[number])))
    with np.load(tmp_path / "packed.npz") as file:
        pixels = file["arr_0"]
    one_by_one = [np.asarray(Image.open(path)).tobytes() for path in kept]
    assert pixels.shape == (21, 16, 16, 3) and sorted(map(bytes, pixels)) == sorted(one_by_one)
    assert [bytes(image) for image in pixels] != one_by_one, "in another order"

    again = replace(config, images=packed.npz, out=str(tmp_path / "again"), count=21)
    assert evaluate_generation(again)["sets"][0]["frechet"] == pytest.approx(report["sets"][0]["frechet"], rel=1e-4)
    against = evaluate_generation(replace(again, data=packed.statistics, statistics=""))
    assert against["mean"]["frechet"] == pytest.approx(report["sets"][0]["frechet"], rel=1e-4)
    with pytest.raises(ValueError, match="is an .npz file already"):
        replace(again, npz="x.npz")


def test_rejection_sampling_measures_the_best_of_the_candidates(config: GenerationEvaluation, tmp_path: Path) -> None:
    judged = replace(config, candidates=3, sets=1, count=9, keep_images=True)
    report = evaluate_generation(judged)
    assert report["of"]["candidates"] == 3 and report["of"]["judge"] == "likelihood"
    command = ["generate", "--model", config.model, "--count", "9", "--seed", str(config.seed), "--precision", "fp32"]
    assert main([*command, "--candidates", "3", "--out", str(tmp_path / "same")]) == 0
    for number in range(9):
        name = f"{number:06d}.png"
        kept = Path(config.out) / "images" / "set-00" / name
        assert kept.read_bytes() == (tmp_path / "same" / name).read_bytes()


def test_packed_models_have_an_identity(pipeline: VARPipeline) -> None:
    plain = identity(pipeline.transformer)
    assert plain == identity(make_pipeline().to(torch.device("cpu"), torch.float32).transformer)
    assert plain == identity(make_pipeline().transformer) != identity(make_pipeline(seed=1).transformer)
    eight = [identity(make_pipeline(seed).to(torch.device("cpu"), torch.int8).transformer) for seed in (0, 0, 1)]
    assert eight[0] == eight[1] != eight[2]


def test_a_sweep_has_a_point_per_setting(
    config: GenerationEvaluation, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ("data", "model", "features", "out")
    flags = [part for name in given for part in (f"--{name.replace('_', '-')}", getattr(config, name))]
    command = ["evaluate", "generation", *flags, "--count", "12", "--precision", "fp32", "--sweep"]
    assert main([*command, "--guidances", "0,2.5", "--top-ps", "0.9,0.5"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    settings = [(point["guidance"], point["top_p"]) for point in report["points"]]
    assert settings == [(0, 0.9), (2.5, 0.9), (0, 0.5), (2.5, 0.5)]
    assert report["best"] == min(report["points"], key=lambda point: point["frechet"])
    assert (tmp_path / "out" / "sweep.png").is_file() and "smallest Frechet distance" in capsys.readouterr().out
    alone = evaluate_generation(replace(config, guidance=2.5, top_p=0.5, sets=1, count=12, out=str(tmp_path / "alone")))
    assert report["points"][3]["frechet"] == pytest.approx(alone["mean"]["frechet"], rel=1e-6)
    assert main([*command, "--guidances", ","]) == 2
    assert main([*command, "--guidances", "0,1", "--top-ps", "0.9,2"]) == 2
    assert main([*command, "--npz", "x.npz"]) == 2
    assert main([*command, "--images", "x"]) == 2


def test_images_of_unequal_size_are_refused(config: GenerationEvaluation, image_folder: Make, tmp_path: Path) -> None:
    mixed = image_folder("mixed")
    larger = image_folder("larger", side=24)
    (larger / "green" / "003.png").rename(mixed / "green" / "003.png")
    with pytest.raises(ValueError, match="is 24 x 24 pixels, the others are 16 x 16"):
        evaluate_generation(replace(config, images=str(mixed)))


def test_few_images_are_warned_of(config: GenerationEvaluation, caplog: pytest.LogCaptureFixture) -> None:
    report = evaluate_generation(replace(config, count=40, sets=1))
    assert report["floor"]["count"] == 20, "of 60 images 40 are the reference"
    assert "20 images" in caplog.text and "fewer degrees of freedom than their 50 features" in caplog.text
    with pytest.raises(ValueError, match="this figure needs at least 6"):
        evaluate_generation(replace(config, count=5, out=config.out + "-few"))


@pytest.fixture
def inception_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """torch-fidelity's Inception with weights nobody trained."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    kind = module.FeatureExtractorInceptionV3
    torch.manual_seed(0)
    torch.save({}, tmp_path / "empty.pth")
    with monkeypatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda self, state: None)
        state = kind("x", ["2048"], str(tmp_path / "empty.pth")).state_dict()
    torch.save(state, tmp_path / "inception.pth")
    return str(tmp_path / "inception.pth")


def eigenvalues_of_low_rank(matrix: np.ndarray) -> np.ndarray:
    """Of a product of covariances of a dozen images: all but a dozen are 0, and the others those of a small matrix."""
    random = np.random.default_rng(0).standard_normal((len(matrix), 32))
    basis, _ = np.linalg.qr(matrix @ random)
    return np.concatenate([eigenvalues(basis.T @ matrix @ basis), np.zeros(len(matrix) - 32)])


eigenvalues = np.linalg.eigvals


@pytest.mark.filterwarnings("ignore")
def test_figures_of_folders_are_torch_fidelitys(
    inception_weights: str, image_folder: Make, tmp_path: Path, config: GenerationEvaluation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fidelity = pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(np.linalg, "eigvals", eigenvalues_of_low_rank)  # the full ones are half of the test
    one, two = image_folder("one", per_class=4), image_folder("two", per_class=4, flat=True)
    for number, file in enumerate(sorted(two.iterdir())):
        shifted = Image.open(file).rotate(90 * (number % 4))
        shifted.save(file)
    theirs = fidelity.calculate_metrics(
        input1=str(two), input2=str(one), samples_find_deep=True, fid=True, isc=True, kid=True, prc=True, cuda=False,
        kid_subset_size=12, kid_subsets=1, verbose=False, cache=False, batch_size=12, feature_layer_prc="2048",
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=inception_weights,
    )  # fmt: skip
    report = evaluate_generation(
        replace(
            config, data=str(one), images=str(two), count=12, features="inception", feature_weights=inception_weights
        )
    )
    ours, reference = report["mean"], report["reference"]
    assert reference["count"] == 12 and report["count"] == 12
    for name, their_name in (
        ("frechet", "frechet_inception_distance"), ("precision", "precision"), ("recall", "recall"),
        ("kernel", "kernel_inception_distance_mean"), ("inception_score", "inception_score_mean"),
    ):  # fmt: skip
        assert ours[name] == pytest.approx(theirs[their_name], rel=1e-3), name
