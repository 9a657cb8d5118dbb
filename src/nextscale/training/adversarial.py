"""The adversarial part of stage 1: a patch discriminator, hinge losses and the adaptive weight.

After VQGAN (arXiv 2012.09841, eq. 4-7) with spectral normalisation (arXiv 1802.05957) in place of batch statistics
and differentiable augmentation before the discriminator. StyleGAN2's is the other choice.
Shapes: B batch, (H, W) pixels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from nextscale.nn.augment import augmented
from nextscale.nn.conv import channels_last
from nextscale.nn.stylegan2 import StyleDiscriminator, gradient_penalty, logistic_loss, non_saturating_loss
from nextscale.pyramid import Size
from nextscale.training.config import AdversarialConfig, OptimiserConfig
from nextscale.training.optimisation import Updater
from nextscale.training.parallel import add_up, launched, wrap

LARGEST_WEIGHT = 1e4
UNCLIPPED = 1e9
"""A gradient norm that is never reached."""


class PatchDiscriminator(nn.Sequential):
    """Strided convolutions that score overlapping patches, (B, 3, H, W) -> (B, 1, h, w)."""

    def __init__(self, channels: int, levels: int) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for level in range(levels):
            outputs = channels * min(2**level, 8)
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            inputs = outputs
        layers += [spectral_norm(nn.Conv2d(inputs, inputs, 3, padding=1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(inputs, 1, 3, padding=1)))


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of scores of real images and of reconstructions, scalar."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """Loss of the decoder: minus the mean score of its reconstructions, scalar."""
    return -fake.float().mean()


def adaptive_weight(reconstructed: Tensor, weight: Tensor, wanted: Tensor, adversarial: Tensor) -> Tensor:
    """|d L_rec / d w| / |d L_adv / d w| at the decoder's last weight w, scalar (VQGAN, eq. 7).

    `wanted` and `adversarial` are the gradients of the two losses at `reconstructed`, (B, 3, H, W), which is computed
    from w. The result is the same on all processes.
    """
    norms = []
    for gradient in (wanted, adversarial):
        (at_weight,) = torch.autograd.grad(reconstructed, weight, gradient, retain_graph=True)
        add_up(at_weight)
        norms.append(at_weight.float().norm())
    return (norms[0] / (norms[1] + 1e-6)).clamp(0, LARGEST_WEIGHT)


class Adversary:
    """The discriminator in training: it scores reconstructions for the tokenizer's loss, and learns from them."""

    def __init__(self, config: AdversarialConfig, optimiser: OptimiserConfig, device: torch.device, size: Size) -> None:
        """`size` is the images'. Raises ValueError where the discriminator cannot take it."""
        self.config = config
        self.penalised = config.discriminator == "stylegan2" and config.r1 > 0
        settings = replace(optimiser, learning_rate=optimiser.learning_rate * config.discriminator_rate)
        if config.discriminator == "stylegan2":
            discriminator: nn.Module = StyleDiscriminator(config.discriminator_channels, size)
            self.discriminator_loss, self.generator_loss = logistic_loss, non_saturating_loss
            # Unclipped: what a penalty that is weighed for many steps adds to the gradient is meant to be large.
            settings = replace(settings, beta1=0.0, beta2=0.99, clip=UNCLIPPED)
        else:
            discriminator = PatchDiscriminator(config.discriminator_channels, config.discriminator_levels)
            self.discriminator_loss, self.generator_loss = discriminator_loss, generator_loss
            settings = replace(settings, beta1=0.5, beta2=0.9)
        self.module = channels_last(discriminator.to(device))
        self.updater = Updater(self.module, settings, lambda name, parameter: parameter.ndim < 2)
        self.wrapped = wrap(self.module, launched())

    def backward(
        self, reconstructed: Tensor, losses: tuple[Tensor, Tensor], last: Tensor, scores: Tensor
    ) -> dict[str, Tensor]:
        """Accumulate the gradients of all losses in the tokenizer; returns figures.

        `losses` are the reconstruction's and the quantiser's, `last` is the decoder's last weight, and `scores` are
        the discriminator's of `reconstructed`.
        """
        pixels, quantizer = losses
        loss = self.generator_loss(scores)
        (wanted,) = torch.autograd.grad(pixels, reconstructed, retain_graph=True)
        (adversarial,) = torch.autograd.grad(loss, reconstructed)
        weight = torch.ones((), device=wanted.device)
        if self.config.adaptive:
            weight = adaptive_weight(reconstructed, last, wanted, adversarial)
        gradient = wanted + self.config.adversarial * weight.to(wanted.dtype) * adversarial
        if quantizer.requires_grad:
            torch.autograd.backward([reconstructed, quantizer], [gradient, torch.ones_like(quantizer)])
        else:
            reconstructed.backward(gradient)
        return {"adversarial": loss.detach(), "adaptive_weight": weight}

    def shown(self, *batches: Tensor) -> list[Tensor]:
        """Batches as the discriminator sees them: augmented, if the settings say so."""
        return augmented(batches) if self.config.discriminator_augment else list(batches)

    def penalises(self, step: int) -> bool:
        """Whether R1 is due at a step (0-based)."""
        return self.penalised and (step + 1) % self.config.r1_every == 0

    def judge(self, real: Tensor, fake: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """Scores of real images followed by those of as many reconstructions, and R1 with its weight where it is due.

        Both are (B, 3, H, W); R1 wants float32, without autocast.
        """
        batches = self.shown(real, fake)
        if self.config.discriminator == "patch":
            return self.wrapped(torch.cat(batches)), None
        due = self.penalises(step)
        seen = batches[0].detach().requires_grad_(due)
        scores = self.wrapped(seen), self.wrapped(batches[1])
        penalty = gradient_penalty(scores[0], seen) * self.config.r1 * self.config.r1_every if due else None
        return torch.cat(scores), penalty

    def learn(
        self, scores: Tensor, step: int, steps: int, batch_size: int, penalty: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One update from the scores of a batch of real images followed by as many reconstructions; returns figures."""
        real, fake = scores.chunk(2)
        loss = self.discriminator_loss(real, fake)
        self.updater.schedule(step, steps, batch_size)
        self.updater.backward(loss if penalty is None else loss + penalty)
        self.updater.step()
        figures = {} if penalty is None else {"r1": penalty.detach() / self.config.r1_every}
        return figures | {
            "discriminator": loss.detach(),
            "score_real": real.detach().float().mean(),
            "score_reconstructed": fake.detach().float().mean(),
        }
