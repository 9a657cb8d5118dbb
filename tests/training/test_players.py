"""Models of two networks that train in turn, on images, without a tokenizer: a GAN made up here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale import ScaleSchedule, families
from nextscale.families.base import Family
from nextscale.runtime import image_generator
from nextscale.sampling.step import ScaleSample
from nextscale.training.config import OptimiserConfig, TransformerTraining, training_settings
from nextscale.training.parallel import average_gradients
from nextscale.training.run import RunFolder
from nextscale.training.stage2 import train_transformer
from training.small_runs import Make, interrupt_at, lines, weights

turns: list[tuple[str, set[str]]] = []
"""Who had a turn, and whose weights had gradients then."""


@dataclass(frozen=True, kw_only=True)
class ToyGanConfig:
    classes: int = 3
    image_size: tuple[int, int] = (16, 16)
    codes: int = 4

    @property
    def unconditional(self) -> int:
        return self.classes


class ToyGan(nn.Module):
    schedule = ScaleSchedule([1])
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, config: ToyGanConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        pixels = 3 * config.image_size[0] * config.image_size[1]
        self.generator = nn.Linear(config.codes + config.classes + 1, pixels)
        self.discriminator = nn.Linear(pixels, 1)

    def initialise(self, *, gamma: float) -> None:
        for layer in (self.generator, self.discriminator):
            nn.init.normal_(layer.weight, std=0.05)

    def drawn(self, noise: Tensor, classes: Tensor) -> Tensor:
        given = torch.cat([noise, F.one_hot(classes, self.config.classes + 1).float()], dim=1)
        return self.generator(given).tanh().view(len(classes), 3, *self.config.image_size)

    def forward(self, images: Tensor, classes: Tensor, player: str) -> Tensor:
        assert images.shape[1:] == (3, 16, 16) and images.min() >= -1 and images.max() <= 1
        scores = self.discriminator(self.drawn(torch.randn(len(classes), self.config.codes), classes).flatten(1))
        if player == "generator":
            return -scores.mean()
        return F.relu(1 - self.discriminator(images.flatten(1))).mean() + F.relu(1 + scores).mean()


class ToyGanFamily(Family):
    kind, title = "toy-gan", "a GAN of two matrices"
    config, network = ToyGanConfig, ToyGan
    reads_tokens = predicts_tokens = False

    def players(self, model: Any) -> Mapping[str, nn.Module]:
        return {"generator": model.generator, "discriminator": model.discriminator}

    def loss(
        self, model: Any, batch: Tensor, classes: Tensor, *, player: str = "", **others: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert others["tokenizer"] is None
        if model.training:
            open_to = {name for name, one in self.players(model).items() if one.weight.requires_grad}
            turns.append((player, open_to))
        loss = model(batch, classes, player)
        return loss, {f"{player}_loss": loss.detach()}

    def sample(
        self, model: Any, tokenizer: None, classes: Tensor, *, seeds: Tensor, **others: Any
    ) -> Iterator[ScaleSample]:
        generators = [image_generator(seed) for seed in seeds.tolist()]
        noise = torch.stack([torch.randn(model.config.codes, generator=one) for one in generators])
        images = model.drawn(noise, classes)
        yield ScaleSample(0, torch.zeros(len(images), 1, 1, dtype=torch.int64), images)


@pytest.fixture
def gan(monkeypatch: pytest.MonkeyPatch, image_folder: Make, tmp_path: Path) -> TransformerTraining:
    monkeypatch.setattr(families, "_registered", dict(families._registered))
    families.register(ToyGanFamily())
    turns.clear()
    data = str(image_folder())
    return training_settings("toy-gan")(
        data=data,
        heldout=data,
        out=str(tmp_path / "run"),
        steps=4,
        batch_size=6,
        log_every=1,
        sample_every=4,
        heldout_images=8,
        checkpoint_every=2,
        precision="fp32",
        device="cpu",
        top_k=0,
        top_p=0,
        optimiser=OptimiserConfig(learning_rate=1e-1, ema=0.9),
    )


def test_two_players_train_in_turn_and_continue_exactly(
    gan: TransformerTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_transformer(gan)
    assert turns == [("generator", {"generator"}), ("discriminator", {"discriminator"})] * 4
    state = RunFolder(tmp_path / "run").load_checkpoint()
    assert state is not None and set(state) == {"step", "average", "generator", "discriminator"}
    assert set(state["generator"]) == {"model", "optimiser"}
    first = lines(tmp_path / "run")[0]
    assert {"generator_loss", "discriminator_loss", "gradient_norm", "gradient_norm_discriminator"} <= set(first)
    measured = lines(tmp_path / "run")[-1]
    assert {"heldout_generator_loss", "heldout_unconditional_discriminator_loss"} <= set(measured)

    parts = replace(gan, out=str(tmp_path / "parts"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_transformer(parts)
    train_transformer(parts, resume=True)
    assert lines(tmp_path / "parts") == lines(tmp_path / "run")
    assert weights(tmp_path / "parts") == weights(tmp_path / "run")


def test_a_model_of_images_leaves_no_tokenizer_behind(gan: TransformerTraining, tmp_path: Path) -> None:
    assert gan.tokenizer == ""
    train_transformer(replace(gan, accumulate=2))
    assert list(weights(tmp_path / "run")) == ["model/transformer/model.safetensors"]
    assert (tmp_path / "run" / "samples" / "00000004.png").is_file()


def test_gradients_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(3.0))  # the other process has 3
    average_gradients(layer)
    assert layer.weight.grad is not None and layer.weight.grad.tolist() == [[2.0, 2.0]]
