"""Everything runs on a GPU and gives what it gives on the CPU; what asks for no CUDA, also on a pretended device."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nextscale.bench.speed import measure_speed
from nextscale.checkpoint import ModelConfig, save_model
from nextscale.data.source import open_source
from nextscale.data.tokens import TokenCacheConfig, open_tokens
from nextscale.editing.config import METHOD_NAMES
from nextscale.evaluation.generation import GenerationEvaluation, evaluate_generation
from nextscale.evaluation.likelihood import LikelihoodEvaluation, evaluate_likelihood
from nextscale.evaluation.reconstruction import ReconstructionEvaluation, evaluate_reconstruction
from nextscale.pipeline import VARPipeline
from nextscale.results import Generation
from nextscale.sampling.rejection import ClassifierJudge, Rejection, likelihood_judge
from nextscale.studio.pictures import RegionPreview
from nextscale.training.config import AdversarialConfig
from nextscale.training.stage1 import train_tokenizer
from nextscale.training.stage2 import train_transformer
from nextscale.training.tokens import write_tokens
from pretended import pretended_device
from toys import (
    CLASS_NAMES,
    FAMILY_SCALES,
    centre,
    make_baseline,
    make_pipeline,
    make_tokenizer,
    make_transformer,
    noise,
    pixels,
    toy_image,
)
from training.small_runs import lines, stage1_config, stage2_config

Make = Callable[..., Path]
CPU = torch.device("cpu")
HOLES = np.zeros((20, 40), dtype=bool)
HOLES[2:6, 2:6] = HOLES[14:18, 34:38] = True
ADVERSARY = AdversarialConfig(adversarial=0.4, adversarial_start=0.3, discriminator_channels=4, discriminator_levels=2)


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if request.param == "cuda":
        yield torch.device("cuda", 0)
        return
    with pretended_device() as device:
        yield device


def both(make: Callable[[], VARPipeline], device: torch.device) -> tuple[VARPipeline, VARPipeline]:
    """A model on the CPU and on the device, in float32."""
    return make().to(CPU, torch.float32), make().to(device, torch.float32)


def require_equal(found: Generation, wanted: Generation) -> None:
    """The same tokens, and images that differ by the last bit at most."""
    assert found.tokens.packed.device.type == "cpu"
    assert torch.equal(found.tokens.packed, wanted.tokens.packed)
    require_close(found.images, wanted.images)
    if wanted.scores is not None:
        assert found.scores == pytest.approx(wanted.scores, rel=1e-3, abs=1e-2)


def require_close(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


@pytest.mark.parametrize("kind", FAMILY_SCALES)
def test_every_family_draws_the_same_images(kind: str, device: torch.device) -> None:
    if kind == "dit":
        pytest.importorskip("diffusers")
    cpu, gpu = both(lambda: make_baseline(kind), device)
    settings: dict[str, Any] = {"seeds": [1, 2], "guidance": 1.5, "steps": 5 if kind == "dit" else 0}
    require_equal(gpu.generate([0, None], **settings), cpu.generate([0, None], **settings))


def test_two_models_in_turn_draw_the_same_images(device: torch.device) -> None:
    def pair() -> VARPipeline:
        refiner = make_pipeline()
        refiner.transformer = make_transformer(1, depth=3)
        return make_pipeline().with_refiner(refiner, 2)

    cpu, gpu = both(pair, device)
    settings: dict[str, Any] = {"seeds": [1, 2, 3], "guided_scales": 3}
    require_equal(gpu.generate([0, 1, None], **settings), cpu.generate([0, 1, None], **settings))


def test_generation_scale_by_scale(device: torch.device) -> None:
    cpu, gpu = both(make_pipeline, device)
    asked: dict[str, Any] = {"classes": [0, 1, None], "seeds": [1, 2, 3]}
    require_equal(gpu.generate(**asked), cpu.generate(**asked))
    for found, wanted in zip(gpu.generate_steps(**asked), cpu.generate_steps(**asked), strict=True):
        assert torch.equal(found.tokens.cpu(), wanted.tokens)
        require_close(found.preview(), wanted.preview())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precisions_draw_images(dtype: torch.dtype) -> None:
    gpu = make_pipeline().to(torch.device("cuda"), dtype)
    asked: dict[str, Any] = {"classes": [0, 1, None], "seeds": [1, 2, 3]}
    assert torch.equal(gpu.generate(**asked).tokens.packed, gpu.generate(**asked).tokens.packed)


EDITS: dict[str, Callable[[VARPipeline], Generation]] = {
    **{
        f"inpaint {name}": lambda p, name=name: p.inpaint(noise(40, 20), HOLES, seeds=[0, 1], method=name)
        for name in METHOD_NAMES
    },
    "inpaint, one hole": lambda p: p.inpaint(noise(20, 16), centre(16, 20), seeds=[0, 1, 2]),
    "inpaint, nothing": lambda p: p.inpaint(noise(20, 16), [], seeds=[0, 1]),
    "inpaint, kept scales": lambda p: p.inpaint(noise(40, 20), HOLES, keep_scales=1),
    "inpaint, rejection": lambda p: p.inpaint(
        noise(20, 16), centre(16, 20), classes="red", seeds=[0, 1], rejection=Rejection(candidates=3)
    ),
    "edit": lambda p: p.edit(toy_image(0, 0), classes="red", keep_scales=2),
    "outpaint": lambda p: p.outpaint(noise(16, 16), left=6, seeds=[0, 1]),
    "upscale": lambda p: p.upscale(toy_image(0, 0, 8), seeds=[0, 1]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_are_the_same(edit: str, device: torch.device) -> None:
    cpu, gpu = both(make_pipeline, device)
    require_equal(EDITS[edit](gpu), EDITS[edit](cpu))


def test_edits_scale_by_scale(device: torch.device) -> None:
    cpu, gpu = both(make_pipeline, device)
    found, wanted = (list(p.edit_steps(p.editor(noise(40, 20), HOLES), seeds=[1, 2])) for p in (gpu, cpu))
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.tokens.cpu(), other.tokens)
        require_close(one.images(), other.images())


def test_previews_of_an_edit(device: torch.device) -> None:
    cpu, gpu = both(make_pipeline, device)
    found, wanted = (list(p.edit_steps(p.editor(noise(20, 16), centre(16, 20)))) for p in (gpu, cpu))
    for one, other in zip(found, wanted, strict=True):
        require_close(*(RegionPreview(step.editor).after(step.accumulated) for step in (one, other)))


def test_tokens_logits_and_likelihoods(device: torch.device) -> None:
    cpu, gpu = both(make_pipeline, device)
    images = torch.cat([pixels(toy_image(label, 0)) for label in range(3)])
    tokens = cpu.tokenizer.encode(images)
    assert torch.equal(gpu.tokenizer.encode(images.to(device)).packed.cpu(), tokens.packed)
    close: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3, "check_device": False}
    torch.testing.assert_close(gpu.reconstruct(images).cpu(), cpu.reconstruct(images), **close)
    for measure in (
        lambda p: p.logits(tokens, [0, 1, None]),
        lambda p: p.log_likelihood(tokens, [0, 1, None]),
        lambda p: p.class_log_likelihoods(tokens),
    ):
        torch.testing.assert_close(measure(gpu).cpu(), measure(cpu), **close)


def test_judges(device: torch.device) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    cpu, gpu = both(make_pipeline, device)
    for judge in (likelihood_judge, ClassifierJudge(network)):
        asked: dict[str, Any] = {"seeds": [1, 2], "rejection": Rejection(candidates=3, keep=2, judge=judge)}
        wanted = cpu.generate([0, 1], **asked)
        require_equal(gpu.generate([0, 1], **asked), wanted)


def close_figures(found: Any, wanted: Any) -> None:
    """The same report, but for rounding."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        found, wanted = list(found.values()), list(wanted.values())
    if isinstance(wanted, list):
        for one, other in zip(found, wanted, strict=True):
            close_figures(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-2, abs=1e-3)
    else:
        assert found == wanted


@pytest.mark.filterwarnings("ignore")
def test_evaluation_of_images(
    device: torch.device, image_folder: Make, model_folder: Path, tmp_path: Path, small_features: None
) -> None:
    config = GenerationEvaluation(
        data=str(image_folder(per_class=6)), model=str(model_folder), out=str(tmp_path / "cpu"), count=9, sets=1,
        features="small-6", device="cpu", precision="fp32", batch_size=4, candidates=2, judge="likelihood",
    )  # fmt: skip
    wanted = evaluate_generation(config)
    found = evaluate_generation(replace(config, device=str(device), out=str(tmp_path / "gpu")))
    close_figures(found, wanted)


def test_evaluation_of_a_tokenizer(
    device: torch.device, image_folder: Make, model_folder: Path, mobilenet: str, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = ReconstructionEvaluation(
        data=str(image_folder(per_class=1)), model=str(model_folder), out=str(tmp_path / "out"), count=3,
        precision="fp32", features="none", perceptual="mobilenet_v2", perceptual_weights=mobilenet, batch_size=3,
        device="cpu",
    )  # fmt: skip
    (found, shown), (wanted, expected) = (
        evaluate_reconstruction(replace(config, device=one)) for one in (str(device), "cpu")
    )
    close_figures(found, wanted)
    torch.testing.assert_close(shown, expected, rtol=1e-3, atol=1e-2)


def test_evaluation_of_likelihood(device: torch.device, image_folder: Make, model_folder: Path, mobilenet: str) -> None:
    config = LikelihoodEvaluation(
        data=str(image_folder(per_class=2)), model=str(model_folder), count=6, classify=3, precision="fp32",
        features="mobilenet_v2", feature_weights=mobilenet, batch_size=4, device="cpu",
    )  # fmt: skip
    close_figures(evaluate_likelihood(replace(config, device=str(device))), evaluate_likelihood(config))


def test_inspection_of_an_image(device: torch.device) -> None:
    pytest.importorskip("gradio")
    from nextscale.studio.inspection import attention_of, inspect_image

    cpu, gpu = both(make_pipeline, device)
    found, wanted = (inspect_image(one, toy_image(0, 0), 1) for one in (gpu, cpu))
    require_close(found.stages, wanted.stages)
    require_close([attention_of(gpu, found, 3, 1, 1)], [attention_of(cpu, wanted, 3, 1, 1)])


def test_token_caches(device: torch.device, image_folder: Make, tmp_path: Path) -> None:
    source, tokenizer = open_source(image_folder(per_class=3)), make_tokenizer()
    config = TokenCacheConfig(data=str(tmp_path), scales=tokenizer.config.scales, codebook_size=32, flip=True)
    made = [
        write_tokens(make_tokenizer().to(one), source, tmp_path / one.type, config, batch_size=5, dtype=torch.float32)
        for one in (CPU, device)
    ]
    wanted, found = (open_tokens(folder).batch(np.arange(9))[0].packed for folder in made)
    assert torch.equal(found, wanted)


@pytest.mark.gpu
def test_the_server_makes_what_the_pipeline_makes() -> None:
    pytest.importorskip("fastapi")
    from nextscale.server.jobs import Job, Stage
    from nextscale.server.local import LocalBackend

    gpu = make_pipeline().to(torch.device("cuda"), torch.float32)
    backend = LocalBackend(gpu, "toy")

    async def made(seed: int) -> list[Stage]:
        job = Job(seed=seed, label=1, sampling=gpu.sampling(), previews=frozenset({1}))
        return [stage async for stage in backend.make(job)]

    async def all_made() -> list[list[Stage]]:
        return await asyncio.gather(*(made(seed) for seed in range(5)))

    for seed, stages in enumerate(asyncio.run(all_made())):
        assert [stage.scale for stage in stages] == [1, 3]
        require_close([stages[-1].image], gpu.generate(1, seeds=[seed]).images)


def test_what_is_saved_from_a_device_is_read_on_another(device: torch.device, tmp_path: Path) -> None:
    cpu, gpu = both(make_pipeline, device)
    gpu.save_pretrained(tmp_path / "model")
    loaded = VARPipeline.from_pretrained(tmp_path / "model", device="cpu", dtype="fp32")
    require_equal(loaded.generate([0, 1], seeds=[1, 2]), cpu.generate([0, 1], seeds=[1, 2]))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("adversary", [AdversarialConfig(), ADVERSARY], ids=["plain", "adversarial"])
def test_two_steps_of_a_tokenizer(
    precision: str, adversary: AdversarialConfig, image_folder: Make, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"steps": 2, "log_every": 1, "sample_every": 2, "adversary": adversary}
    cpu = stage1_config(image_folder(), tmp_path / "cpu", **how)
    gpu = stage1_config(image_folder(), tmp_path / "gpu", device="cuda", precision=precision, **how)
    train_tokenizer(cpu)
    train_tokenizer(gpu)
    assert first_loss(tmp_path / "gpu") == pytest.approx(first_loss(tmp_path / "cpu"), rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_two_steps_of_a_transformer(precision: str, image_folder: Make, tmp_path: Path) -> None:
    save_model(tmp_path / "tokenizer", ModelConfig(kind="tokenizer"), tokenizer=make_tokenizer())
    how: dict[str, Any] = {"steps": 2, "log_every": 1, "sample_every": 2}
    cpu = stage2_config(image_folder(), tmp_path / "tokenizer", tmp_path / "cpu", **how)
    gpu = stage2_config(
        image_folder(), tmp_path / "tokenizer", tmp_path / "gpu", device="cuda", precision=precision, **how
    )
    train_transformer(cpu)
    train_transformer(gpu)
    assert first_loss(tmp_path / "gpu") == pytest.approx(first_loss(tmp_path / "cpu"), rel=0.02)
    pipeline = VARPipeline.from_pretrained(tmp_path / "gpu", device="cuda")
    assert len(pipeline.generate(CLASS_NAMES).images) == 3


def first_loss(run: Path) -> float:
    """The loss of the first step, before which no weights differ."""
    return next(line["loss"] for line in lines(run) if "loss" in line)


@pytest.mark.gpu
def test_speed_is_measured_by_events() -> None:
    gpu = make_pipeline().to(torch.device("cuda"), torch.bfloat16)
    one, two = measure_speed(gpu, [1, 2], rounds=2)
    for speed in (one, two):
        assert min(speed.times.transformer) > 0 and speed.times.decode > 0
        assert 0 < speed.share_of_gemm < 1
        assert 1e5 < speed.peak_bytes < 1e9, "of this model, not of the process"
