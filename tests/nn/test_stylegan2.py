"""StyleGAN2's discriminator: its parts against plain forms, R1 against finite differences."""

import math

import pytest
import torch
from torch.nn import functional as F

from nextscale.nn.stylegan2 import (
    EqualConv,
    StyleDiscriminator,
    batch_deviation,
    blurred,
    gradient_penalty,
    logistic_loss,
    non_saturating_loss,
)
from nextscale.training.adversarial import Adversary
from nextscale.training.config import AdversarialConfig, OptimiserConfig

CPU = torch.device("cpu")


def test_logistic_losses() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 3.0])
    expected = [math.log1p(math.exp(-2)), math.log(2), math.log1p(math.exp(-1)), math.log1p(math.exp(3))]
    assert logistic_loss(real, fake).item() == pytest.approx(sum(expected) / 2)
    assert non_saturating_loss(real).item() == pytest.approx(sum(expected[:2]) / 2)


def test_the_penalty_and_its_gradient_equal_finite_differences() -> None:
    torch.manual_seed(0)
    model = StyleDiscriminator(2, (8, 8)).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    found = gradient_penalty(model(images), images)
    step = 1e-5
    squares = 0.0
    with torch.no_grad():
        for place in range(images.numel()):
            score = [
                model((images.flatten() + sign * step * one_at(place, images)).view_as(images)).sum()
                for sign in (1, -1)
            ]
            squares += float((score[0] - score[1]) / (2 * step)) ** 2
    assert found.item() == pytest.approx(squares / 2 / 2, rel=1e-6), "half, and a mean over two images"
    found.backward()
    for name in ("first.weight", "levels.0.conv2.weight", "levels.0.skip.weight", "linear.weight", "score.weight"):
        weight = model.get_parameter(name)
        direction = torch.randn_like(weight)
        penalties = []
        for sign in (1, -1):
            weight.data += sign * step * direction
            penalties.append(gradient_penalty(model(images), images).item())
            weight.data -= sign * step * direction
        assert weight.grad is not None
        slope = (penalties[0] - penalties[1]) / (2 * step)
        assert (weight.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4), name


def one_at(place: int, images: torch.Tensor) -> torch.Tensor:
    return F.one_hot(torch.tensor(place), images.numel()).to(images.dtype)


def test_the_blur_is_a_filter_of_four_pixels() -> None:
    x = torch.randn(2, 3, 6, 8)
    row = torch.tensor([1.0, 3, 3, 1]) / 8
    kernel = (row[:, None] * row).expand(3, 1, 4, 4)
    torch.testing.assert_close(blurred(x, 2), F.conv2d(x, kernel, padding=2, groups=3))
    torch.testing.assert_close(blurred(x, 1, stride=2), F.conv2d(x, kernel, padding=1, stride=2, groups=3))


def test_weights_are_scaled_when_used() -> None:
    torch.manual_seed(0)
    layer = EqualConv(64, 128, 3)
    assert layer.weight.std().item() == pytest.approx(1, abs=0.02)
    assert layer(torch.randn(4, 64, 9, 9)).std().item() == pytest.approx(1, abs=0.1)


def test_a_batch_sees_how_much_its_images_differ() -> None:
    x = torch.randn(8, 5, 2, 3)
    found = batch_deviation(x)
    assert found.shape == (8, 1, 2, 3)
    for image in range(8):
        group = x[image % 2 :: 2]  # every second image: groups of four
        torch.testing.assert_close(
            found[image], group.std(dim=0, unbiased=False).mean().expand(1, 2, 3), atol=1e-4, rtol=0
        )
    assert batch_deviation(x[:1].expand(6, -1, -1, -1)).max() <= 1.1e-4, "a batch that has collapsed"
    assert batch_deviation(x[:7]).shape == (7, 1, 2, 3)


@pytest.mark.parametrize(("size", "levels"), [((4, 4), 0), ((16, 32), 2), ((64, 64), 4)])
def test_levels_go_down_to_four_pixels(size: tuple[int, int], levels: int) -> None:
    model = StyleDiscriminator(4, size)
    assert len(model.levels) == levels
    assert model(torch.randn(3, 3, *size)).shape == (3, 1)


@pytest.mark.parametrize("size", [(2, 8), (18, 16), (16, 18)])
def test_images_that_cannot_be_halved_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="stylegan2 halves images down to 4 pixels"):
        StyleDiscriminator(4, size)


def test_the_penalty_is_due_now_and_then_and_weighs_for_all_steps() -> None:
    config = AdversarialConfig(
        adversarial=1.0,
        discriminator="stylegan2",
        discriminator_channels=4,
        r1=3.0,
        r1_every=4,
        discriminator_augment=False,
    )
    adversary = Adversary(config, OptimiserConfig(), CPU, (8, 8))
    real, fake = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    due = [adversary.judge(real, fake, step)[1] for step in range(8)]
    assert [number for number, penalty in enumerate(due) if penalty is not None] == [3, 7]
    images = real.clone().requires_grad_()
    scores, penalty = adversary.judge(real, fake, 3)
    assert penalty is not None
    torch.testing.assert_close(penalty, 12 * gradient_penalty(adversary.module(images), images))
    torch.testing.assert_close(scores, torch.cat([adversary.module(real), adversary.module(fake)]))
    assert adversary.learn(scores, 3, 8, 256, penalty)["r1"].item() == pytest.approx(penalty.item() / 4)
