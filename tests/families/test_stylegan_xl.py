"""StyleGAN-XL: the public configuration's size, its losses, classes' vectors, the classifier that guides growth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from nextscale.bench.cost import generation_flops, sampling_steps, training_flops
from nextscale.families import family
from nextscale.families.config import family_presets
from nextscale.families.one_step_config import StyleGANXLConfig, StyleGANXLObjective
from nextscale.families.stylegan_xl import StyleGANXL, class_vectors, layers_of, shown
from nextscale.nn.projected import Projector

TINY = StyleGANXLConfig(
    side=16, stem_layers=3, channel_base=64, channel_max=8, latent=8, style=16, class_features=5, classes=3
)


class Scores(nn.Module):
    """In the place of a discriminator: two heads that look at brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, images: torch.Tensor, classes: torch.Tensor) -> list[torch.Tensor]:
        return [images.mean(dim=(1, 2, 3))[:, None] * weight for weight in self.weight]


def make_model(config: StyleGANXLConfig = TINY) -> Any:
    torch.manual_seed(0)
    model = StyleGANXL(config)
    model.discriminator = Scores()
    return model


def loss_of(model: Any, player: str, **more: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    images, classes = torch.rand(4, 3, *model.config.image_size) * 2 - 1, torch.tensor([0, 1, 2, 3])
    shared = {"tokenizer": None, "config": model.config, "player": player}
    return family("stylegan-xl").loss(model, images, classes, **shared, **more)


def test_the_public_configuration_has_its_size() -> None:
    """Counted by hand from the public code: 10 layers at 16 pixels, then four growths of 7 (weights, biases, affine
    layers of styles, the input, the mapping; without the table of classes)."""
    presets = family_presets("stylegan-xl")
    counts = {}
    for side in (16, 64, 256):
        with torch.device("meta"):
            model = StyleGANXL(presets[f"stylegan-xl-{side}"])
        counts[side] = family("stylegan-xl").parameters(model)
    assert counts == {16: 101_624_903, 64: 201_260_103, 256: 233_117_350}
    signals, kept = layers_of(presets["stylegan-xl-256"])
    assert (len(signals), kept) == (31, 23)
    with torch.device("meta"):
        assert family("stylegan-xl").parameters(StyleGANXL(presets["compact-16-64"])) == 6_988_295


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"side": 48}, "side must be a power of two"),
        ({"side": 32, "grown_from": (64,)}, "a model grows to larger images, not from 64 to 32"),
        ({"stem_layers": 2}, "stem_layers must be at least 3"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        StyleGANXLConfig(**changes)


def test_it_is_of_one_step_and_costed() -> None:
    flops = generation_flops(TINY, None, guided=False).total
    assert flops > 0 and sampling_steps(TINY) == 1 and training_flops(TINY) == 4 * flops
    config = family_presets("stylegan-xl")["compact-16"]
    convolutions = sum(
        2 * 9 * before.channels * after.channels * (before.size + 2) ** 2
        for before, after in zip(layers_of(config)[0][:6], layers_of(config)[0][1:7], strict=True)
    )
    assert 1.0 < generation_flops(config, None, guided=False).total / convolutions < 1.4, "filters are a small part"


def test_only_the_discriminators_turn_in_training_moves_the_running_averages() -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.generator.named_buffers()}
    for player, more in (("generator", {"objective": StyleGANXLObjective()}), ("discriminator", {})):
        loss_of(model, player, **more)
        assert all(torch.equal(before[name], value) for name, value in model.generator.named_buffers()), player
    loss, figures = loss_of(model, "discriminator", objective=StyleGANXLObjective())
    loss.backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    moved = {name for name, value in model.generator.named_buffers() if not torch.equal(before[name], value)}
    assert moved >= {"averages.class_embedding.weight", "synthesis.layers.0.magnitude"}
    assert not [name for name in moved if "mapping" in name or "frequencies" in name]
    assert set(figures) == {"discriminator", "score_real", "score_made"}


def test_blur_fades_over_its_share() -> None:
    objective = StyleGANXLObjective(blur=2.0, blur_share=0.5, augment=0.0)
    assert [objective.blur_at(share) for share in (0, 0.25, 0.5, 1)] == [2.0, 1.0, 0.0, 0.0]
    images = torch.rand(1, 3, 16, 16)
    assert not torch.equal(shown(images, objective, 0.0), images)
    assert torch.equal(shown(images, objective, 0.6), images) and torch.equal(shown(images, None, 0.0), images)


def test_classes_vectors_are_mean_features() -> None:
    torch.manual_seed(0)
    projector = Projector(get_model("shufflenet_v2_x0_5", weights=None), resize=128)
    images, labels = torch.rand(5, 3, 16, 16), torch.tensor([0, 2, 0, -1, 2])
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    vectors = class_vectors(projector, batches, classes=3)
    with torch.no_grad():
        pooled = projector.pooled(images)
    means = pooled[[0, 2]].mean(dim=0), pooled[[1, 4]].mean(dim=0)
    assert torch.allclose(vectors[0], means[0], atol=1e-5) and torch.allclose(vectors[2], means[1], atol=1e-5)
    assert torch.allclose(vectors[3], (means[0] + means[1]) / 2, atol=1e-5), "for no class"
    assert torch.equal(vectors[1], vectors[3]), "a class without images"


def test_a_classifier_guides_only_what_grows(tmp_path: Any) -> None:
    torch.manual_seed(0)
    network, file = get_model("shufflenet_v2_x0_5", weights=None, num_classes=3).eval(), tmp_path / "classifier.pth"
    torch.save(network.state_dict(), file)
    named: dict[str, Any] = {"classifier": "shufflenet_v2_x0_5", "classifier_weights": str(file)}
    objective = StyleGANXLObjective(**named, classifier_scale=3.0, augment=0.0, blur=0.0)
    assert "guidance" not in loss_of(make_model(), "generator", objective=objective)[1]
    grown = StyleGANXLConfig(**{**vars(TINY), "side": 32, "grown_from": (16,), "head_layers": 3})
    model = make_model(grown)
    loss, figures = loss_of(model, "generator", objective=objective)
    assert loss.item() == pytest.approx((figures["generator"] + 3 * figures["guidance"]).item(), rel=1e-5)
    loss.backward()
    assert model.generator.synthesis.layers[-1].weight.grad is not None
    assert all(parameter.grad is None for parameter in model.generator.mapping.parameters())
    four = make_model(StyleGANXLConfig(**{**vars(grown), "classes": 4}))
    with pytest.raises(ValueError, match="tells 3 classes apart, the data has 4"):
        loss_of(four, "generator", objective=objective)
