"""Architectures of one step that no tokenizer is needed for; StyleGAN-XL's, and what its loss takes in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nextscale.config import require_at_least


@dataclass(frozen=True, kw_only=True)
class OneStepConfig:
    """What architectures of one step have in common: they make images of random latents, without a tokenizer."""

    classes: int = 0
    "Number of classes; 0 where images have none."
    latent: int = 64
    "Normal numbers that an image is made of."

    def __post_init__(self) -> None:
        require_at_least(self, 0, "classes")
        require_at_least(self, 1, "latent")

    @property
    def unconditional(self) -> int:
        """Id of images without a class."""
        return self.classes

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StyleGANXLConfig(OneStepConfig):
    """Architecture of StyleGAN-XL's generator, which may have grown from smaller images."""

    side: int = 64
    "Pixels of a side of the images, a power of two; a larger one than that of --init-from grows it."
    grown_from: tuple[int, ...] = ()
    "Sides of the images of the models that it grew from, smallest first."
    stem_layers: int = 7
    "Layers before any growth, without the last one, which makes colours of channels."
    head_layers: int = 4
    "Layers that a growth adds."
    channel_base: int = 16384
    "Channels of a layer, times twice the highest frequency it draws, in waves along a side."
    channel_max: int = 256
    "Channels of a layer at most."
    style: int = 512
    "Numbers of a style."
    class_features: int = 1280
    "Numbers of a class's vector: those of the discriminator's backbone, averaged over images of the class."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "channel_base", "channel_max", "style", "class_features")
        require_at_least(self, 3, "stem_layers", "head_layers")
        if any(side < 16 or side & (side - 1) for side in self.sides):
            raise ValueError(f"side must be a power of two from 16 on, got {','.join(map(str, self.sides))}")
        if list(self.sides) != sorted(set(self.sides)):
            raise ValueError(
                f"a model grows to larger images, not from {','.join(map(str, self.grown_from))} to {self.side}"
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the images from the first model on."""
        return (*self.grown_from, self.side)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.side, self.side


@dataclass(frozen=True, kw_only=True)
class StyleGANXLObjective:
    """What StyleGAN-XL's loss takes in training."""

    backbone: str = "mobilenet_v2"
    "Torchvision network whose features the discriminator reads; another one should judge the images."
    backbone_weights: str = ""
    "File of its weights; without it, torchvision's of ImageNet."
    resize: int = 224
    "Pixels of a side to which images are resized for the backbone, 128 or more; 0 leaves them."
    head_width: int = 64
    "Channels of the discriminator's heads where they read the finest features; 64 as published."
    augment: float = 1.0
    "Probability of each change of the images that the discriminator sees."
    blur: float = 2.0
    "Pixels by which images are blurred at the start."
    blur_share: float = 0.3
    "Share of the training after which they no longer are; published: 300,000 images."
    classifier: str = "resnet18"
    "Torchvision network that guides a model that grows."
    classifier_weights: str = ""
    "File of its weights, for the same classes; without it nothing is guided."
    classifier_scale: float = 8.0
    "Weight of its cross-entropy in the generator's loss."

    def __post_init__(self) -> None:
        require_at_least(self, 0, "blur", "classifier_scale", "resize")
        require_at_least(self, 1, "head_width")
        for name in ("augment", "blur_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def blur_at(self, share: float) -> float:
        """Pixels of blur after a share of the training, 0 to 1."""
        return self.blur * max(0.0, 1 - share / self.blur_share) if self.blur_share else 0.0


def stylegan_xl_presets() -> dict[str, StyleGANXLConfig]:
    """StyleGAN-XLs by name: small ones, and every stage of the public configuration for ImageNet at 256 pixels."""
    small: dict[str, Any] = {"channel_base": 4096, "channel_max": 256}
    compact: dict[str, Any] = {"grown_from": (16,), "side": 64}
    tiny: dict[str, Any] = {"side": 16, "stem_layers": 3, "head_layers": 3, "channel_base": 64, "channel_max": 8}
    public: dict[str, Any] = {"stem_layers": 10, "head_layers": 7, "channel_base": 65536, "channel_max": 1024}
    sides = (16, 32, 64, 128, 256)
    return {
        "small": StyleGANXLConfig(**small),
        "tiny": StyleGANXLConfig(**tiny, latent=8, style=16),
        "small-16": StyleGANXLConfig(**small, side=16),
        "small-16-64": StyleGANXLConfig(**small, **compact),
        "compact-16": StyleGANXLConfig(side=16),
        "compact-16-64": StyleGANXLConfig(**compact),
        **{
            f"stylegan-xl-{side}": StyleGANXLConfig(**public, side=side, grown_from=sides[:stage], classes=1000)
            for stage, side in enumerate(sides)
        },
    }


def stylegan_xl_recipes() -> dict[str, dict[str, Any]]:
    """The published training settings: no sample loses its class."""
    return {name: {"class_dropout": 0.0} for name in stylegan_xl_presets() if name.startswith("stylegan-xl")}
