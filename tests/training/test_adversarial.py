"""The adversarial part: known losses, the adaptive weight against the slow way."""

import pytest
import torch
from torch import nn

from nextscale.training.adversarial import (
    Adversary,
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from nextscale.training.config import AdversarialConfig, OptimiserConfig

CPU = torch.device("cpu")


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.75))
    assert generator_loss(fake).item() == pytest.approx(1.25)
    assert discriminator_loss(torch.tensor([1.0]), torch.tensor([-1.0])).item() == 0


@pytest.mark.parametrize("size", [(16, 16), (24, 64)])
def test_the_discriminator_scores_patches(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(8, 3)
    scores = model(torch.randn(2, 3, *size))
    assert scores.shape == (2, 1, size[0] // 8, size[1] // 8)
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            for _ in range(30):
                weight = layer.weight  # each look is a power iteration
            assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def decoder_and_losses() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
    latents, images = torch.randn(2, 4, 16, 16, requires_grad=True), torch.randn(2, 3, 16, 16)
    reconstructed = decoder(latents)
    return decoder, reconstructed, (reconstructed - images).abs().mean(), latents.square().mean(), latents


def test_the_adaptive_weight_is_the_ratio_at_the_last_layer() -> None:
    decoder, reconstructed, pixels, _, _ = decoder_and_losses()
    judged = generator_loss(PatchDiscriminator(4, 2)(reconstructed))
    last = decoder[2].weight
    slow = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (pixels, judged)]
    wanted, adversarial = (torch.autograd.grad(loss, reconstructed, retain_graph=True)[0] for loss in (pixels, judged))
    found = adaptive_weight(reconstructed, last, wanted, adversarial)
    torch.testing.assert_close(found, slow[0] / (slow[1] + 1e-6))


@pytest.mark.parametrize("adaptive", [True, False])
def test_gradients_are_those_of_the_summed_loss(adaptive: bool) -> None:
    config = AdversarialConfig(adversarial=0.4, adaptive=adaptive, discriminator_channels=4, discriminator_levels=2)
    gradients = []
    for slow in (True, False):
        decoder, reconstructed, pixels, quantizer, latents = decoder_and_losses()
        adversary = Adversary(config, OptimiserConfig(), CPU)
        scores = adversary.module(reconstructed)
        if slow:
            weight = 1.0
            if adaptive:
                norms = [
                    torch.autograd.grad(loss, decoder[2].weight, retain_graph=True)[0].norm()
                    for loss in (pixels, generator_loss(scores))
                ]
                weight = (norms[0] / (norms[1] + 1e-6)).detach()
            (pixels + quantizer + 0.4 * weight * generator_loss(scores)).backward()
        else:
            figures = adversary.backward(reconstructed, (pixels, quantizer), decoder[2].weight, scores)
            assert figures["adversarial"] == generator_loss(scores)
            assert all(parameter.grad is None for parameter in adversary.module.parameters())
        gradients.append([latents.grad, *(parameter.grad for parameter in decoder.parameters())])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_the_discriminator_learns_to_tell_noise_from_flat_images() -> None:
    torch.manual_seed(0)
    config = AdversarialConfig(adversarial=1.0, discriminator_channels=8, discriminator_levels=2)
    constant = OptimiserConfig(learning_rate=3e-3, warmup=0.0, weight_decay=0.0)
    adversary = Adversary(config, constant, CPU)
    for _ in range(60):
        real, fake = torch.randn(8, 3, 16, 16), torch.rand(8, 3, 1, 1).expand(-1, -1, 16, 16) * 2 - 1
        figures = adversary.learn(adversary.wrapped(torch.cat(adversary.shown(real, fake))), 0, 1, 256)
    assert figures["score_real"] > figures["score_reconstructed"] + 0.5
    assert figures["discriminator"] < 0.8
    other = Adversary(config, OptimiserConfig(), CPU)
    other.updater.restore(adversary.updater.state())
    assert torch.equal(other.module.eval()(real), adversary.module.eval()(real))


@pytest.mark.parametrize(
    "changes",
    [
        {"adversarial": -1.0},
        {"adversarial_start": 1.0},
        {"discriminator_channels": 0},
        {"discriminator_rate": -1.0},
        {"discriminator_levels": 0},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        AdversarialConfig(**changes)


def test_the_discriminator_joins_late() -> None:
    config = AdversarialConfig(adversarial=0.4, adversarial_start=0.25, adversarial_lead=0.125)
    assert [config.joined(step, 8) for step in range(4)] == [False, False, True, True]
    assert [config.learning(step, 8) for step in range(4)] == [False, True, True, True], "it learns before it is heard"
    assert not AdversarialConfig().joined(7, 8) and not AdversarialConfig().learning(7, 8)


def test_the_discriminator_has_a_learning_rate_of_its_own() -> None:
    config = AdversarialConfig(adversarial=1.0, discriminator_rate=4.0, discriminator_levels=1)
    adversary = Adversary(config, OptimiserConfig(learning_rate=1e-3, warmup=0.0), CPU)
    images = torch.randn(2, 3, 16, 16)
    adversary.learn(adversary.wrapped(torch.cat([images, images])), 0, 1, 256)
    assert adversary.updater.optimiser.param_groups[0]["lr"] == pytest.approx(4e-3)
