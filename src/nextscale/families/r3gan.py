"""R3GAN (arXiv 2501.05441): a relativistic loss with gradient penalties on both sides, and no other trick.

Shapes: B batch, (H, W) pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.conditions import Conditions
from nextscale.families.base import Figures
from nextscale.families.config import TITLES, R3GANObjective
from nextscale.families.config import R3GANConfig as R3GANConfig
from nextscale.families.one_step import OneStep
from nextscale.nn.augment import augmented
from nextscale.nn.double_backward import gradient_penalties
from nextscale.nn.r3gan import Discriminator, Generator
from nextscale.pyramid import ScaleSchedule
from nextscale.tokenizer.vqvae import VQVAE


class R3GAN(nn.Module):
    """A generator and its mirror, the discriminator."""

    schedule = ScaleSchedule([1])

    def __init__(self, config: R3GANConfig) -> None:
        super().__init__()
        self.config = config
        shared = {"blocks": config.blocks, "group_width": config.group_width, "classes": config.classes}
        self.generator = Generator(config.widths, latent=config.latent, **shared)
        self.discriminator = Discriminator(config.widths[::-1], **shared)

    def initialise(self, *, gamma: float = 0.0) -> None:
        """Draw all weights from torch's global generator; residual branches begin at 0, whatever `gamma`."""
        self.generator.initialise()
        self.discriminator.initialise()

    @property
    def device(self) -> torch.device:
        return self.generator.basis.device

    @property
    def dtype(self) -> torch.dtype:
        return self.generator.basis.dtype

    def generate(self, latents: Tensor, conditions: Conditions, *, truncation: float = 1.0) -> Tensor:
        """Images (B, 3, H, W) of latents (B, Z), whose average, 0, `truncation` moves them toward."""
        return self.generator(truncation * latents, conditions)


def relativistic_loss(wanted: Tensor, other: Tensor) -> Tensor:
    """softplus(-(wanted - other)) of the scores (B,) of pairs, its mean (eq. 1 with f(t) = -log(1 + e^-t))."""
    return F.softplus(other - wanted).mean()


class R3GANFamily(OneStep):
    """The regularised relativistic GAN."""

    kind = "r3gan"
    title = TITLES["r3gan"]
    config = R3GANConfig
    network = R3GAN
    objective = R3GANObjective
    penalises_gradients = True

    def loss(
        self,
        model: R3GAN,
        batch: Tensor,
        classes: Tensor,
        *,
        tokenizer: VQVAE | None,
        config: R3GANConfig,
        label_smoothing: float = 0.0,
        objective: R3GANObjective | None = None,
        share: float = 0.0,
        player: str = "",
    ) -> tuple[Tensor, Figures]:
        """A player's relativistic loss on pairs of a real and a made image of one class; without an `objective`, the
        discriminator sees plain images and pays no penalties."""
        penalty, augment = (0.0, 0.0) if objective is None else objective.at(share)
        latents = torch.randn(len(batch), config.latent, device=batch.device)
        if player == "generator":
            made = model.generator(latents, classes).float()
            real_seen, made_seen = augmented([batch, made], augment)
            with torch.no_grad():
                real = model.discriminator(real_seen, classes)
            loss = relativistic_loss(model.discriminator(made_seen, classes), real)
            return loss, {"generator": loss.detach()}
        with torch.no_grad():
            made = model.generator(latents, classes).float()
        images = torch.cat([batch, made]).requires_grad_(penalty > 0)
        seen = torch.cat(augmented(images.chunk(2), augment))
        scores = model.discriminator(seen, classes.repeat(2))
        real, made = scores.chunk(2)
        loss = relativistic_loss(real, made)
        figures = {"discriminator": loss.detach(), "margin": (real - made).mean().detach()}
        if penalty:
            r1, r2 = (one.mean() for one in gradient_penalties(scores, images).chunk(2))
            loss = loss + penalty / 2 * (r1 + r2)
            figures |= {"r1": r1.detach(), "r2": r2.detach()}
        return loss, figures

    def training_flops(self, config: R3GANConfig) -> float:
        """FLOPs of an image in training: both networks are mirrors, and cost alike.

        The discriminator's turn: an image is made; it and a real one are scored (2), their gradients taken (2), and
        both of these go backwards to weights and activations (8). The generator's: one is made, and goes backwards (3);
        both are scored (2), and the made one's score goes back to its pixels (1).
        """
        return (1 + 12 + 6) * self.other_flops(config)


FAMILY = R3GANFamily()
