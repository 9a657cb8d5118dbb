"""StyleGAN-XL (arXiv 2202.00273): a style-based generator that grows, against a projected discriminator.

Shapes: B batch, D features, (H, W) pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.conditions import ClassLabels, Conditions
from nextscale.families.base import Figures
from nextscale.families.config import TITLES
from nextscale.families.one_step import OneStep
from nextscale.families.one_step_config import StyleGANXLConfig as StyleGANXLConfig
from nextscale.families.one_step_config import StyleGANXLObjective
from nextscale.nn.alias_free import Signal, grown, progression
from nextscale.nn.augment import augmented
from nextscale.nn.perceptual import imagenet_normalised, load_backbone
from nextscale.nn.projected import ProjectedDiscriminator, Projector, adversarial_loss, blurred, hinge_loss
from nextscale.nn.style import StyleGenerator
from nextscale.pyramid import ScaleSchedule
from nextscale.tokenizer.vqvae import VQVAE

MAGNITUDE_HALF_LIFE = 20_000
"""Images after which the running magnitudes have forgotten half (StyleGAN3)."""
logger = logging.getLogger("nextscale.training")


def layers_of(config: StyleGANXLConfig) -> tuple[list[Signal], int]:
    """Signals of the generator's layers, and how many of these stay as the model had them that it grew from."""
    channels = config.channel_base, config.channel_max
    first, *others = config.sides
    signals, kept = progression(first, config.stem_layers, channels=channels), 0
    for side in others:
        signals, kept = grown(signals, side, config.head_layers, channels=channels)
    return signals, kept


class StyleGANXL(nn.Module):
    """A generator; in training, also a discriminator, which no file of a model holds."""

    schedule = ScaleSchedule([1])

    def __init__(self, config: StyleGANXLConfig) -> None:
        super().__init__()
        self.config = config
        signals, frozen = layers_of(config)
        sizes = {"latent": config.latent, "style": config.style, "classes": config.classes}
        self.generator = StyleGenerator(signals, **sizes, features=config.class_features, frozen=frozen)

    def initialise(self, *, gamma: float = 0.0) -> None:
        """Nothing: weights were drawn where they were made, whatever `gamma`."""

    @property
    def device(self) -> torch.device:
        return self.generator.synthesis.input.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.generator.synthesis.input.weight.dtype

    def generate(self, latents: Tensor, conditions: Conditions, *, truncation: float = 1.0) -> Tensor:
        """Images (B, 3, H, W) of latents (B, Z); styles go toward their class's average where truncation is below 1."""
        return self.generator(latents, conditions, truncation=truncation)


class StyleGANXLFamily(OneStep):
    """The style-based GAN with a projected discriminator."""

    kind = "stylegan-xl"
    title = TITLES["stylegan-xl"]
    config = StyleGANXLConfig
    network = StyleGANXL
    objective = StyleGANXLObjective

    def rate_of(self, player: str) -> float:
        return 0.8 if player == "discriminator" else 1.0  # published: 0.002 and 0.0025

    def equip(self, model: StyleGANXL, settings: Any, images: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Give a model its discriminator, and its classes' vectors unless it grows or starts from another.

        Raises ValueError for settings, files or data that do not fit.
        """
        config, objective = model.config, settings.objective
        if config.grown_from and not settings.init_from:
            raise ValueError(
                f"a model of {config.side} pixels that grew begins with one of {config.grown_from[-1]}: train that "
                "first, then give its run as --init-from"
            )
        table = model.generator.mapping.class_embedding
        network = load_backbone(objective.backbone, objective.backbone_weights)
        vectors = None if table is None else table.weight
        discriminator = ProjectedDiscriminator(
            network, vectors, resize=objective.resize or config.side, width=objective.head_width
        )
        discriminator.to(model.device)
        if table is not None and not settings.init_from:
            features = discriminator.projector.features
            if features != config.class_features:
                raise ValueError(
                    f"{objective.backbone} has features of {features} numbers: set --class-features {features}"
                )
            table.weight.copy_(class_vectors(discriminator.projector, images(), config.classes))
            assert discriminator.class_embedding is not None
            discriminator.class_embedding.weight.copy_(table.weight)
        if guides(config, objective):
            frozen_classifier(objective.classifier, objective.classifier_weights, config.classes, model.device)
        elif config.grown_from:
            logger.info("no classifier guides what grows; --classifier-weights names the file of one")
        model.discriminator = discriminator

    def started_state(self, model: StyleGANXL, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of a smaller model, all but the layers that give way when it grows."""
        own = model.state_dict()
        if own.keys() == state.keys() and all(own[name].shape == value.shape for name, value in state.items()):
            return state
        kept = model.generator.synthesis.frozen
        return own | {name: value for name, value in state.items() if layer_of(name) < kept}

    def exported(self, model: StyleGANXL) -> StyleGANXL:
        made = self.network(model.config).to(model.device)
        made.generator.load_state_dict(model.generator.state_dict())
        return made

    def loss(
        self,
        model: Any,
        batch: Tensor,
        classes: Tensor,
        *,
        tokenizer: VQVAE | None,
        config: StyleGANXLConfig,
        label_smoothing: float = 0.0,
        objective: StyleGANXLObjective | None = None,
        share: float = 0.0,
        player: str = "",
    ) -> tuple[Tensor, Figures]:
        """The hinge loss of the discriminator, or minus its scores of made images, summed over its heads.

        Without an `objective`, the discriminator sees plain images, and running averages stay as they are.
        """
        latents, conditions = (
            torch.randn(len(batch), config.latent, device=batch.device),
            ClassLabels(classes, config.unconditional),
        )
        if player == "generator":
            made = model.generator(latents, conditions)
            loss = adversarial_loss(model.discriminator(shown(made, objective, share), classes))
            figures = {"generator": loss.detach()}
            if objective is not None and guides(config, objective):
                guidance = classification(made, classes, config, objective)
                loss, figures = loss + objective.classifier_scale * guidance, figures | {"guidance": guidance.detach()}
            return loss, figures
        with torch.no_grad():
            if objective is None:
                made = model.generator(latents, conditions)
            else:
                made = model.generator.tracked(latents, classes, 1 - 0.5 ** (len(batch) / MAGNITUDE_HALF_LIFE))
        real, fake = (model.discriminator(shown(images, objective, share), classes) for images in (batch, made))
        loss = hinge_loss(real, fake)
        scores = {
            name: torch.cat(one, dim=1).mean().detach() for name, one in (("score_real", real), ("score_made", fake))
        }
        return loss, {"discriminator": loss.detach()} | scores

    def training_flops(self, config: StyleGANXLConfig) -> float:
        """FLOPs of an image in training: made for each player, and twice that backwards for the generator.

        Without the discriminator, whose backbone is a setting of the training.
        """
        return 4 * self.other_flops(config)


def layer_of(name: str) -> int:
    """The number of the synthesis layer that a weight belongs to, -1 before the first."""
    path = name.removeprefix("generator.synthesis.").split(".")
    return int(path[1]) if path[0] == "layers" else -1


def shown(images: Tensor, objective: StyleGANXLObjective | None, share: float) -> Tensor:
    """Images (B, 3, H, W) as the discriminator sees them after a `share` of the training."""
    if objective is None:
        return images
    return augmented([blurred(images, objective.blur_at(share))], objective.augment)[0]


@torch.no_grad()
def class_vectors(projector: Projector, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    """Mean features of the images of each class, then of all classes, (classes + 1, D) on the projector's device.

    `batches` are images (B, 3, H, W) in [-1, 1] and labels (B,), negative for none. A class without images has the mean
    of the others.
    """
    device = next(projector.parameters()).device
    sums, counts = torch.zeros(classes, projector.features, device=device), torch.zeros(classes, 1, device=device)
    for images, labels in batches:
        known = labels >= 0
        pooled, ids = projector.pooled(images[known].to(device)), labels[known].to(device)
        sums.index_add_(0, ids, pooled)
        counts.index_add_(0, ids, torch.ones_like(pooled[:, :1]))
    means = sums / counts.clamp_min(1)
    average = means.sum(dim=0, keepdim=True) / (counts > 0).sum().clamp_min(1)
    return torch.cat([torch.where(counts > 0, means, average), average])


def guides(config: StyleGANXLConfig, objective: StyleGANXLObjective) -> bool:
    """Whether a classifier guides the generator: in growth alone, where its file is named."""
    return bool(config.grown_from and objective.classifier_weights and objective.classifier_scale)


def classification(images: Tensor, classes: Tensor, config: StyleGANXLConfig, objective: StyleGANXLObjective) -> Tensor:
    """Mean cross-entropy of the frozen classifier on images (B, 3, H, W) in [-1, 1]; those without a class count 0."""
    network = frozen_classifier(objective.classifier, objective.classifier_weights, config.classes, images.device)
    logits = network(imagenet_normalised(images)).float()
    return F.cross_entropy(logits, classes, ignore_index=config.unconditional, reduction="sum") / len(classes)


@lru_cache(maxsize=1)
@torch.no_grad()
def frozen_classifier(name: str, weights: str, classes: int, device: torch.device) -> nn.Module:
    """A torchvision classifier from a file. Raises ValueError for a file that does not fit, or of other classes."""
    network = load_backbone(name, weights).requires_grad_(False).to(device)
    told = network(torch.zeros(1, 3, 64, 64, device=device)).shape[1]
    if told != classes:
        raise ValueError(f"{weights}: tells {told} classes apart, the data has {classes}")
    return network


FAMILY = StyleGANXLFamily()
