"""A family that this file makes up: it has no tokenizer, no blocks and two players, and nothing else knows of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale import ScaleSchedule, VARPipeline, families
from nextscale.bench.cost import generation_flops, sampling_steps, training_flops
from nextscale.checkpoint import ModelConfig
from nextscale.cli import main
from nextscale.conditions import Conditions
from nextscale.config import read_json_lines
from nextscale.families import family, family_of, kinds, register
from nextscale.families.base import Family
from nextscale.runtime import image_generator
from nextscale.sampling.step import SamplingConfig, SamplingHook, ScaleSample
from nextscale.tokenizer.vqvae import PixelTokenizer
from nextscale.training.config import OptimiserConfig, training_settings
from nextscale.training.stage2 import train_transformer
from toys import CLASS_NAMES, make_pipeline, toy_image


@dataclass(frozen=True, kw_only=True)
class GANConfig:
    """A toy generative adversarial network."""

    classes: int = 3
    noise: int = 4
    "Numbers that an image is made of."
    image_size: tuple[int, int] = (16, 16)

    @property
    def unconditional(self) -> int:
        return self.classes


class GAN(nn.Module):
    """Two linear layers that play against each other."""

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config, self.schedule = config, ScaleSchedule([1])
        pixels = 3 * config.image_size[0] * config.image_size[1]
        self.class_embedding = nn.Embedding(config.classes + 1, config.noise)
        self.generator = nn.Linear(config.noise, pixels)
        self.discriminator = nn.Linear(pixels, 1)

    @property
    def device(self) -> torch.device:
        return self.generator.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.generator.weight.dtype

    def initialise(self, *, gamma: float) -> None:
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def forward(self, vectors: Tensor, images: Tensor | None = None) -> Tensor:
        """Images of vectors (B, noise), or the scores of `images` (B, 3, H, W)."""
        if images is not None:
            return self.discriminator(images.flatten(1)).squeeze(1)
        return self.generator(vectors).tanh().unflatten(1, (3, *self.config.image_size))


def sample_gan(
    model: GAN,
    quantizer: None,
    conditions: Conditions,
    *,
    seeds: Tensor,
    config: SamplingConfig,
) -> Iterator[ScaleSample]:
    noise = torch.stack([torch.randn(model.config.noise, generator=image_generator(seed)) for seed in seeds.tolist()])
    with torch.no_grad():
        images = model(noise.to(model.dtype) * config.temperature + conditions.vectors(model))
    yield ScaleSample(0, torch.zeros(len(images), 1, 1, dtype=torch.int64), images)


class GANFamily(Family):
    """The family."""

    kind, title, config, network = "gan", "toy GAN", GANConfig, GAN
    sampler = staticmethod(sample_gan)
    reads_tokens = predicts_tokens = False

    def presets(self) -> Mapping[str, GANConfig]:
        return {"small": GANConfig()}

    def players(self, model: Any) -> dict[str, nn.Module]:
        return {"discriminator": model.discriminator, "generator": model.generator}

    def loss(
        self, model: Any, batch: Tensor, classes: Tensor, *, tokenizer: None, config: GANConfig,
        label_smoothing: float = 0.0, player: str = "",
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        made = model(torch.randn(len(batch), config.noise))
        if player == "generator":
            loss = F.softplus(-model(made, made)).mean()
            return loss, {"loss": loss.detach()}
        loss = (F.softplus(-model(made, batch)) + F.softplus(model(made, made.detach()))).mean()
        return loss, {"discriminator": loss.detach()}

    def other_flops(self, config: GANConfig) -> float:
        return 2.0 * config.noise * 3 * config.image_size[0] * config.image_size[1]


@dataclass(frozen=True, kw_only=True)
class SmallGANConfig(GANConfig):
    """Of another family, which differs in its name alone."""

    image_size: tuple[int, int] = (8, 8)


class SmallGANFamily(GANFamily):
    """Another made-up family beside the first."""

    kind, title, config = "small-gan", "small GAN", SmallGANConfig


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """The made-up families are known to the tests of this file alone."""
    register(GANFamily())
    register(SmallGANFamily())
    yield
    families._registered.pop("gan")
    families._registered.pop("small-gan")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of the made-up family."""
    out = tmp_path_factory.mktemp("gan") / "run"
    for label, name in enumerate(CLASS_NAMES):
        folder = out.parent / "images" / name
        folder.mkdir(parents=True)
        for number in range(12):
            toy_image(label, number).save(folder / f"{number}.png")
    train_transformer(settings_of(out))
    return out


def settings_of(out: Path) -> Any:
    """Settings of its training."""
    data, optimiser = str(out.parent / "images"), OptimiserConfig(learning_rate=1.0, ema=0.0)
    counts: dict[str, Any] = {"steps": 6, "batch_size": 8, "log_every": 1, "checkpoint_every": 3, "sample_every": 3}
    return training_settings("gan")(data=data, out=str(out), optimiser=optimiser, **counts)


def test_it_is_listed() -> None:
    assert "gan" in kinds() and family("gan").title == "toy GAN"
    assert family_of(GANConfig()) is family("gan") and family_of(SmallGANConfig()) is family("small-gan")


def test_it_can_be_registered_again() -> None:
    before, kinds_before = family("gan"), kinds()
    again = GANFamily()
    assert register(again) is family("gan") is family_of(GANConfig()) is again is not before
    assert kinds() == kinds_before


def test_it_trains_both_players_and_continues(run: Path) -> None:
    lines = read_json_lines(run / "metrics.jsonl")
    assert {"loss", "discriminator", "heldout_loss"} <= {name for line in lines for name in line}
    trained = VARPipeline.from_pretrained(run).transformer.state_dict()
    torch.manual_seed(0)
    fresh = GAN(GANConfig())
    fresh.initialise(gamma=0.0)
    for name in ("generator.weight", "discriminator.weight"):
        assert not torch.equal(trained[name], fresh.state_dict()[name]), f"{name} was not trained"
    shutil.rmtree(run / "model")
    for late in run.glob("checkpoints/*6*"):
        shutil.rmtree(late) if late.is_dir() else late.unlink()
    train_transformer(settings_of(run), resume=True)
    again = VARPipeline.from_pretrained(run).transformer.state_dict()
    assert all(torch.equal(trained[name], again[name]) for name in trained)


def test_it_is_sampled_by_the_pipeline_and_the_command(run: Path, tmp_path: Path) -> None:
    pipeline = VARPipeline.from_pretrained(run)
    one, other = pipeline.generate(["red"], seeds=[7]), pipeline.generate(["blue", "red"], seeds=[3, 7])
    assert one.images[0].size == (16, 16)
    assert one.images[0].tobytes() == other.images[1].tobytes() != other.images[0].tobytes()
    assert main(["generate", "--model", str(run), "--count", "2", "--out", str(tmp_path / "out")]) == 0
    pipeline.save_pretrained(tmp_path / "again")
    assert VARPipeline.from_pretrained(tmp_path / "again").generate(["red"], seeds=[7]).images == one.images
    with pytest.raises(ValueError, match="editing reaches into the scales"):
        pipeline.inpaint(one.images[0], None)
    with pytest.raises(ValueError, match="hooks reach into the scales"):
        pipeline.generate_steps(["red"], seeds=[0], hook=SamplingHook())


def test_it_is_costed(run: Path) -> None:
    config = VARPipeline.from_pretrained(run).transformer.config
    assert generation_flops(config, None, guided=False).total == 2 * 4 * 3 * 16 * 16
    assert sampling_steps(config) == 1
    assert training_flops(config) == 3 * 2 * 4 * 3 * 16 * 16


def test_it_is_compared(run: Path, tmp_path: Path, small_features: None) -> None:
    make_pipeline().save_pretrained(tmp_path / "var")
    small = GAN(SmallGANConfig())
    VARPipeline(PixelTokenizer((8, 8)), small, ModelConfig(kind="small-gan")).save_pretrained(tmp_path / "small")
    models = [str(run), str(tmp_path / "var"), str(tmp_path / "small")]
    command = ["compare", *models, "--data", str(run.parent / "images"), "--count", "6"]
    command += ["--sets", "1", "--rounds", "1", "--features", "small-6", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["models"]
    assert [row["title"] for row in rows] == ["toy GAN", "next-scale prediction (VAR)", "small GAN"]
    assert rows[0]["bits"] is None and rows[0]["steps"] == 1 and rows[0]["flops_per_image"] == 2 * 4 * 3 * 16 * 16


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("info RUN", ""),
        ("convert RUN --out OUT", ""),
        ("generate --model RUN --count 2 --precision bf16 --out OUT", ""),
        ("evaluate generation --model RUN --data DATA --count 6 --features small-6 --out OUT", ""),
        ("convert RUN --to official --out OUT", "holds next-scale models only"),
        ("generate --model RUN --classes red --candidates 2 --out OUT", "gives no probabilities of token pyramids"),
        ("generate --model RUN --precision int8 --out OUT", "int8 is for the blocks of transformers"),
        ("generate --model RUN --compile --out OUT", "this model is toy GAN"),
        ("bench --model RUN", "this model is toy GAN"),
        ("evaluate likelihood --model RUN --data DATA --out OUT", "gives no probabilities of token pyramids"),
        ("evaluate reconstruction --model RUN --data DATA --features none --perceptual none --out OUT", "no tokenizer"),
        ("reconstruct DATA --model RUN --out OUT", "no tokenizer"),
        ("tokenize --tokenizer RUN --data DATA --out OUT", "no tokenizer"),
        ("train var --tokenizer RUN --data DATA --preset tiny --out OUT", "no tokenizer"),
        ("train tokenizer --init-from RUN --data DATA --preset tiny-16 --out OUT", "no tokenizer"),
        ("train gan --data DATA --out OUT", "Available commands: tokenizer, var"),
        ("train var --resume --out RUN", "a run of train gan; continue it with the command that began it"),
    ],
)
def test_commands_do_their_work_or_say_why_not(
    command: str,
    complaint: str,
    run: Path,
    tmp_path: Path,
    small_features: None,
    capsys: pytest.CaptureFixture,
) -> None:
    places = {"RUN": run, "DATA": run.parent / "images", "OUT": tmp_path / "out"}
    status = main([str(places.get(word, word)) for word in command.split()])
    *_, last = capsys.readouterr().err.splitlines() or [""]
    assert status == (2 if complaint else 0), last
    if complaint:
        assert last.startswith("nextscale: ") and complaint in last
        assert not (tmp_path / "out").exists(), "nothing is half-written"


def test_it_refuses_what_needs_tokens_and_blocks(run: Path, tmp_path: Path) -> None:
    pipeline, other = VARPipeline.from_pretrained(run), make_pipeline()
    tokens = other.generate(["red"], seeds=[0]).tokens
    for call in (pipeline.class_log_likelihoods, lambda tokens: pipeline.logits(tokens, ["red"])):
        with pytest.raises(ValueError, match="no probabilities of token pyramids"):
            call(tokens)
    with pytest.raises(ValueError, match="no tokenizer"):
        pipeline.reconstruct(torch.zeros(1, 3, 16, 16))
    for tokenizer, model in ((pipeline.tokenizer, other.transformer), (other.tokenizer, pipeline.transformer)):
        with pytest.raises(ValueError, match="PixelTokenizer is for models of pixels, and only for them"):
            VARPipeline(tokenizer, model, other.config)
    settings = replace(settings_of(tmp_path / "run"), data=str(run.parent / "images"), checkpointing=True)
    with pytest.raises(ValueError, match="checkpointing is not for toy GAN"):
        train_transformer(settings)
    assert not (tmp_path / "run").exists()


def test_the_studio_shows_it(run: Path) -> None:
    pytest.importorskip("gradio")
    from nextscale.studio.app import build_studio
    from nextscale.studio.desk import Desk

    made_up, other = VARPipeline.from_pretrained(run), make_pipeline()
    for desk in (Desk(made_up, "gan", rival=other), Desk(other, "toy", rival=made_up)):
        try:
            build_studio(desk)
        finally:
            desk.close()


def test_the_server_makes_its_images(run: Path) -> None:
    pytest.importorskip("ray")
    from nextscale.server.jobs import Job
    from nextscale.server.local import card_of, run_jobs

    pipeline = VARPipeline.from_pretrained(run)
    card = card_of(pipeline, "toy")
    assert (card.title, card.image_size, card.edits) == ("toy GAN", (16, 16), False)
    (stages,) = run_jobs(pipeline, [Job(seed=7, label=2, sampling=pipeline.sampling())], lambda row: True)
    assert stages[0] is not None and stages[0].final
    assert stages[0].image.tobytes() == pipeline.generate(["red"], seeds=[7]).images[0].tobytes()
