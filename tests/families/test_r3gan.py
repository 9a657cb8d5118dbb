"""R3GAN: its loss and penalties against slow formulas, its networks' sizes, what truncation does, what it costs."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nextscale import VARPipeline
from nextscale.bench.cost import generation_flops, sampling_steps, training_flops
from nextscale.checkpoint import ModelConfig
from nextscale.conditions import ClassLabels
from nextscale.config import from_dict, to_dict
from nextscale.families import family
from nextscale.families.config import R3GANConfig, R3GANObjective, family_presets, r3gan_recipes
from nextscale.families.r3gan import R3GAN, relativistic_loss
from nextscale.nn.double_backward import gradient_penalties
from nextscale.nn.r3gan import doubled, halved
from nextscale.sampling.step import SamplingConfig
from nextscale.tokenizer.vqvae import PixelTokenizer
from nextscale.training.config import training_settings
from toys import CLASS_NAMES

TINY = R3GANConfig(widths=(16, 8, 8), latent=8, classes=3)

SMALLEST = R3GANConfig(widths=(8, 8), latent=4, classes=3)


def make_gan(seed: int = 0, config: R3GANConfig = TINY) -> R3GAN:
    """A GAN whose weights all matter: at first the branches are silent."""
    torch.manual_seed(seed)
    model = R3GAN(config)
    model.initialise()
    for name, parameter in model.named_parameters():
        if "contract" in name or "bias" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_gan_pipeline(**changes: Any) -> VARPipeline:
    about = {"kind": "r3gan", "class_names": CLASS_NAMES, "guidance": 0.0, "top_k": 0, "top_p": 0.0}
    return VARPipeline(PixelTokenizer(TINY.image_size), make_gan(), ModelConfig(**about | changes))


def spread(images: list[Image.Image]) -> float:
    return float(np.stack([np.asarray(image, dtype=float) for image in images]).std(axis=0).mean())


def pairs(count: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(count, 3, 16, 16) * 2 - 1, torch.arange(count) % 3


def loss_of(model: R3GAN, player: str, **more: Any) -> tuple[Tensor, dict[str, Tensor]]:
    images, classes = pairs()
    torch.manual_seed(2)  # the latents
    return family("r3gan").loss(model, images, classes, tokenizer=None, config=model.config, player=player, **more)


def test_the_relativistic_loss_is_that_of_pairs() -> None:
    real, made = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 3.0, 0.5])
    slow = [torch.log1p(torch.exp(-(r - m))) for r, m in zip(real, made, strict=True)]
    assert relativistic_loss(real, made).item() == pytest.approx(sum(slow).item() / 3)  # type: ignore[union-attr]
    model = make_gan()
    images, classes = pairs()
    torch.manual_seed(2)
    drawn = model.generator(torch.randn(4, 8), classes)
    scores = [model.discriminator(one, classes) for one in (images, drawn)]
    generator, discriminator = (loss_of(model, player)[0] for player in ("generator", "discriminator"))
    assert generator.item() == pytest.approx(relativistic_loss(scores[1], scores[0]).item(), rel=1e-5)
    assert discriminator.item() == pytest.approx(relativistic_loss(*scores).item(), rel=1e-5)


def test_penalties_and_their_gradients_are_those_of_finite_differences() -> None:
    model = make_gan(config=SMALLEST).double()
    torch.manual_seed(1)
    images, classes = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 2])

    def penalty() -> Tensor:
        seen = images.detach().requires_grad_(True)
        return gradient_penalties(model.discriminator(seen, classes), seen)

    slopes = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for pixel in torch.eye(images[0].numel(), dtype=torch.float64).view(-1, 1, 3, 8, 8):
            above, below = (model.discriminator(images + change * pixel, classes) for change in (1e-6, -1e-6))
            slopes += ((above - below) / 2e-6).square()
    penalties = penalty()
    assert penalties.tolist() == pytest.approx(slopes.tolist(), rel=1e-5)
    penalties.sum().backward()
    for name in ("stages.1.0.mix.weight", "class_embedding.weight", "from_image.weight"):
        weight = model.discriminator.get_parameter(name)
        assert weight.grad is not None
        place = torch.unravel_index(weight.grad.abs().argmax(), weight.shape)
        sums = []
        for change in (1e-6, -2e-6):
            with torch.no_grad():
                weight[place] += change
            sums.append(penalty().sum().item())
        assert weight.grad[place].item() == pytest.approx((sums[0] - sums[1]) / 2e-6, rel=1e-4), name


def test_the_discriminator_pays_both_penalties_and_only_in_training() -> None:
    model = make_gan()
    plain, figures = loss_of(model, "discriminator")
    objective = R3GANObjective(penalty=3.0, penalty_end=1.0, augment_end=0.0)
    for share, penalty in ((0.0, 3.0), (0.5, 2.0), (1.0, 1.0)):
        loss, seen = loss_of(model, "discriminator", objective=objective, share=share)
        assert loss.item() == pytest.approx(plain.item() + penalty / 2 * (seen["r1"] + seen["r2"]).item(), rel=1e-5)
    assert set(figures) == {"discriminator", "margin"} and set(seen) == {"discriminator", "margin", "r1", "r2"}
    torch.manual_seed(0)
    always = R3GANObjective(penalty=0.0, penalty_end=0.0, augment=0.99, augment_end=0.99)
    assert loss_of(model, "generator", objective=always)[0] != loss_of(model, "generator")[0]


def test_gradients_reach_only_the_players_own_weights() -> None:
    model = make_gan()
    for parameter in model.discriminator.parameters():
        parameter.requires_grad_(False)
    loss_of(model, "generator")[0].backward()
    assert all(one.grad is not None for one in model.generator.parameters())
    model = make_gan()
    loss_of(model, "discriminator", objective=R3GANObjective())[0].backward()
    assert all(one.grad is not None for one in model.discriminator.parameters())
    assert all(one.grad is None for one in model.generator.parameters())


def test_resampling_keeps_flat_images_and_is_its_own_transpose() -> None:
    flat = torch.ones(1, 1, 8, 8)
    assert torch.allclose(halved(flat)[..., 1:-1, 1:-1], flat[..., :2, :2])
    assert torch.allclose(doubled(flat)[..., 1:-1, 1:-1], torch.ones(1, 1, 14, 14))
    torch.manual_seed(0)
    small, large = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 8, 12)
    assert (doubled(small) * large).sum().item() == pytest.approx(4 * (small * halved(large)).sum().item(), rel=1e-4)
    dot = torch.zeros(1, 1, 8, 8)
    dot[..., 4, 4] = 64
    assert halved(dot)[0, 0, 1:3].tolist() == [[0, 1, 3, 0], [0, 3, 9, 0]]


def test_sizes() -> None:
    def counts(name: str) -> tuple[float, ...]:
        with torch.device("meta"):
            model = R3GAN(family_presets("r3gan")[name])
        return tuple(sum(p.numel() for p in one.parameters()) / 1e6 for one in (model.generator, model.discriminator))

    assert counts("r3gan-small-64")[0] == pytest.approx(10, rel=0.05)
    assert family_presets("r3gan")["r3gan-small-64"].image_size == (64, 64)
    assert counts("r3gan-ffhq-256") == pytest.approx((23.058, 23.010), abs=5e-4), "as published"
    settings: Any = training_settings("r3gan")
    for name, recipe in r3gan_recipes().items():
        chosen = {"data": "d", "out": "o", "model": to_dict(family_presets("r3gan")[name])} | recipe
        chosen["optimiser"] = to_dict(settings(data="d", out="o").optimiser) | recipe["optimiser"]
        assert from_dict(settings, chosen).optimiser.beta1 == 0
    with pytest.raises(ValueError, match="widths must be numbers"):
        R3GANConfig(widths=(12, 4))


def test_an_image_is_a_function_of_its_seed_and_truncation_leads_to_its_classs_average() -> None:
    pipeline = make_gan_pipeline()
    alone, together = pipeline.generate(["red"], seeds=[7]), pipeline.generate(["blue", "red"], seeds=[3, 7])
    assert alone.images[0].tobytes() == together.images[1].tobytes() != together.images[0].tobytes()
    average = pipeline.generate(["red"], seeds=[1, 2, 3], truncation=0).images
    assert len({image.tobytes() for image in average}) == 1
    assert average[0].tobytes() != pipeline.generate(["blue"], seeds=[1], truncation=0).images[0].tobytes()
    near, far = (pipeline.generate(["red"], seeds=range(8), truncation=t).images for t in (0.5, 1.0))
    assert spread(near) < spread(far)
    with pytest.raises(ValueError, match="guidance is not for this model, adversarial.*its dial is truncation"):
        pipeline.generate(["red"], seeds=[0], guidance=2.0)
    assert SamplingConfig().truncation == 1
    with pytest.raises(ValueError, match="truncation must be a number from 0"):
        SamplingConfig(truncation=-1)


def test_it_is_costed() -> None:
    """All groups are one here: torch's counter takes the weights' gradients of several for those of one."""
    config, model = SMALLEST, make_gan(config=SMALLEST)
    with FlopCounterMode(display=False) as counter:
        model.generate(torch.randn(1, 4), ClassLabels(torch.tensor([1]), 3))
    assert generation_flops(config, None, guided=False).total == counter.get_total_flops() > 0
    assert sampling_steps(config) == 1
    images, classes = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    total = 0
    for player in ("discriminator", "generator"):
        shared = {"tokenizer": None, "config": config, "objective": R3GANObjective(augment_end=0.0)}
        model.discriminator.requires_grad_(player == "discriminator")
        with FlopCounterMode(display=False) as counter:
            family("r3gan").loss(model, images, classes, player=player, **shared)[0].backward()
        total += counter.get_total_flops()
    assert training_flops(config) == pytest.approx(total / 2, rel=0.15), "matrices of resampling aside"
