"""Architectures of all families of models, without the models: quick to import, for help and for reading settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nextscale.config import from_dict, half_cosine, require_at_least, require_share
from nextscale.families.one_step_config import OneStepConfig as OneStepConfig
from nextscale.families.one_step_config import (
    StyleGANXLConfig,
    StyleGANXLObjective,
    stylegan_xl_presets,
    stylegan_xl_recipes,
)
from nextscale.nn import TransformerConfig as TransformerConfig
from nextscale.pyramid import ScaleSchedule

SCALES_512 = tuple((side, side) for side in (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))
"""The official schedule of 512 pixels."""
PLAIN: dict[str, Any] = {"depth": 6, "heads": 4, "drop_path": 0.0, "adaln": False, "qk_normalisation": False}
"""Where the ablation starts; 6 blocks without AdaLN have as many parameters as 4 with it."""


@dataclass(frozen=True, kw_only=True)
class VARConfig(TransformerConfig):
    """Architecture of the next-scale transformer."""

    attention: str = "causal"
    "What a scale attends to: causal (itself and all coarser ones) or scale (itself alone: faster, no cache)."
    refinable: bool = False
    "Whether the last map may be drawn in several passes: the model reads which of its tokens are known."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention not in ("causal", "scale"):
            raise ValueError(f"attention {self.attention!r} is not known; expected causal or scale")
        if self.refinable and len(self.scales) == 1:
            raise ValueError("a refinable model reads its last map, and so needs a coarser one before it; give scales")

    @property
    def sees_coarser(self) -> bool:
        return self.attention == "causal"


@dataclass(frozen=True, kw_only=True)
class RasterConfig(TransformerConfig):
    """Architecture of the raster-order transformer; its tokenizer has a single scale."""

    scales: tuple[tuple[int, int], ...] = ((16, 16),)
    "The one token map's size (height, width): the tokenizer's."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_single_map(self, "raster order reads")

    @property
    def sequence(self) -> ScaleSchedule:
        return ScaleSchedule([1] * self.schedule.length)


def require_single_map(config: TransformerConfig, what: str) -> None:
    """Raises ValueError for a tokenizer with several scales."""
    if len(config.scales) != 1:
        raise ValueError(
            f"{what} a single token map, the tokenizer has {len(config.scales)} scales; "
            "train one with a single scale, such as --scales 8"
        )


@dataclass(frozen=True, kw_only=True)
class RQConfig(TransformerConfig):
    """Architecture of the RQ-Transformer; its tokenizer repeats one scale."""

    scales: tuple[tuple[int, int], ...] = ((8, 8),) * 4
    "One token map's size (height, width), once per residual code: the tokenizer's."
    depth_blocks: int = 4
    "Blocks of the depth transformer; those of the spatial one are `depth`."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "depth_blocks")
        if len(set(self.scales)) != 1:
            raise ValueError(
                "an RQ-Transformer reads residual codes of one resolution; train a tokenizer that repeats a scale, "
                "such as --scales 8,8,8,8"
            )

    @property
    def positions(self) -> int:
        """Places of the map, P."""
        return self.schedule.lengths[0]

    @property
    def codes(self) -> int:
        """Residual codes of a place, D."""
        return len(self.scales)

    @property
    def sequence(self) -> ScaleSchedule:
        """The spatial transformer's: one position after the other."""
        return ScaleSchedule([1] * self.positions)

    @property
    def depth_config(self) -> TransformerConfig:
        """The depth transformer's: a sequence of D codes."""
        names = ("heads", "codebook_size", "latent_channels", "classes", "shared_adaln", "adaln", "qk_normalisation")
        shared = {name: getattr(self, name) for name in names}
        if self.text is not None:  # the spatial states that it starts from have attended to the text
            shared["text"] = replace(self.text, every=0)
        return TransformerConfig(depth=self.depth_blocks, scales=((1, 1),) * self.codes, drop_path=0.0, **shared)


@dataclass(frozen=True, kw_only=True)
class MaskGITConfig(TransformerConfig):
    """Architecture of the masked transformer; its tokenizer has a single scale."""

    scales: tuple[tuple[int, int], ...] = ((16, 16),)
    "The one token map's size (height, width): the tokenizer's."
    sampling_steps: int = 8
    "Steps of generation by default."
    choice_temperature: float = 4.5
    "Noise on how sure each token is; it falls to 0 at the last step."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "sampling_steps")
        require_at_least(self, 0, "choice_temperature")
        require_single_map(self, "masked prediction reads")


@dataclass(frozen=True, kw_only=True)
class DiTConfig(TransformerConfig):
    """Architecture of the diffusion transformer and how it samples by default."""

    qk_normalisation: bool = False
    "Unit queries and keys with a learned scale per head."
    patch: int = 1
    "Latents along each side of a token."
    noise_levels: int = 1000
    "Steps of the diffusion, noise variances rising linearly from 1e-4 to 0.02."
    sampling_steps: int = 250
    "Steps of generation by default."
    latent_scale: float = 1.0
    "Standard deviation of the latents, by which they are divided."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "patch", "noise_levels", "sampling_steps")
        if not self.adaln or self.shared_adaln:
            raise ValueError("a diffusion transformer knows the time by each block's own adaln; leave it as it is")
        if self.sampling_steps > self.noise_levels:
            raise ValueError(f"sampling_steps {self.sampling_steps} are more than the {self.noise_levels} noise_levels")
        if any(side % self.patch for side in self.schedule.final):
            raise ValueError(f"patch {self.patch} does not divide the latent map of {self.schedule.final}")

    @property
    def tokens(self) -> int:
        """Tokens of a map, L."""
        height, width = self.schedule.final
        return height * width // self.patch**2


@dataclass(frozen=True, kw_only=True)
class R3GANConfig(OneStepConfig):
    """Architecture of R3GAN's generator and of the discriminator, its mirror."""

    widths: tuple[int, ...] = (832, 512, 192, 64, 32)
    "Channels of each stage, from 4x4 on; each further one doubles the sides: five make images of 64x64."
    blocks: int = 2
    "Residual blocks of a stage."
    group_width: int = 16
    "Channels of a group of the 3x3 convolutions."

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "blocks", "group_width")
        if not self.widths or any(width < 1 or 2 * width % self.group_width for width in self.widths):
            raise ValueError(
                f"widths must be numbers, twice each of them a multiple of group_width {self.group_width}, "
                f"got {','.join(map(str, self.widths))}"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        side = 4 * 2 ** (len(self.widths) - 1)
        return side, side


@dataclass(frozen=True, kw_only=True)
class R3GANObjective:
    """What R3GAN's loss takes in training; all of it goes from its start to its end along half a cosine."""

    penalty: float = 2.0
    "Weight gamma of the gradient penalties R1 and R2 at the start; wilder images need more."
    penalty_end: float = 0.2
    "Their weight at the end."
    augment: float = 0.0
    "Probability of each change of the images that the discriminator sees, at the start."
    augment_end: float = 0.3
    "That probability at the end; few images need more."

    def __post_init__(self) -> None:
        require_at_least(self, 0, "penalty", "penalty_end")
        require_share(self, "augment", "augment_end")

    def at(self, share: float) -> tuple[float, float]:
        """Penalty and probability after a share of the training, 0 to 1."""
        return half_cosine(self.penalty, self.penalty_end, share), half_cosine(self.augment, self.augment_end, share)


ARCHITECTURES: dict[str, type[Any]] = {
    "var": VARConfig,
    "raster": RasterConfig,
    "rq": RQConfig,
    "maskgit": MaskGITConfig,
    "dit": DiTConfig,
    "r3gan": R3GANConfig,
    "stylegan-xl": StyleGANXLConfig,
}
"""Architectures of the package's families, by kind."""
TITLES = {
    "var": "next-scale prediction (VAR)",
    "raster": "raster-order AR (VQGAN)",
    "rq": "residual-quantised AR (RQ-Transformer)",
    "maskgit": "masked prediction (MaskGIT)",
    "dit": "diffusion (DiT)",
    "r3gan": "adversarial, one step (R3GAN)",
    "stylegan-xl": "adversarial, style-based (StyleGAN-XL)",
}
"""What each kind is called."""
OBJECTIVES: dict[str, type[Any]] = {"r3gan": R3GANObjective, "stylegan-xl": StyleGANXLObjective}
"""Settings of the losses that have some in training, by kind."""


def architecture(kind: str) -> type[Any]:
    """The config of a kind of model. Raises ValueError for an unknown kind."""
    if kind not in ARCHITECTURES:
        raise ValueError(f"kind {kind!r} is not known; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[kind]


def transformer_presets() -> dict[str, VARConfig]:
    """Transformers by name, with the official classes and schedules."""
    plain = {f"var-d{depth}": VARConfig(depth=depth) for depth in (12, 16, 20, 24, 30)}
    return {
        **plain,
        "var-d36": VARConfig(depth=36, scales=SCALES_512, shared_adaln=True),
        "small": VARConfig(depth=4, drop_path=0.0),
        "ablation-var": VARConfig(**PLAIN),
        "ablation-adaln": VARConfig(depth=4, drop_path=0.0, qk_normalisation=False),
        "ablation-normalised": VARConfig(depth=4, drop_path=0.0),
        "tiny": VARConfig(depth=2, drop_path=0.0),
    }


def family_presets(kind: str) -> dict[str, Any]:
    """Architectures of a kind of model by name: small ones, and sizes to compare with VAR's."""
    if kind == "var":
        return transformer_presets()
    if kind in ONE_STEP_PRESETS:
        return ONE_STEP_PRESETS[kind]()
    small: dict[str, Any] = {"small": {"depth": 4, "drop_path": 0.0}, "tiny": {"depth": 2, "drop_path": 0.0}}
    match kind:
        case "raster":  # on 16 x 16, at VAR's sizes
            small["ablation-raster"] = PLAIN
            sizes = {f"raster-d{depth}": {"depth": depth} for depth in (12, 16, 20, 24, 30)}
            # ViT-VQGAN's priors at their width and depth: plain GPTs over 1,024 tokens, whose heads here are 64 wide.
            gpt = {"adaln": False, "qk_normalisation": False, "drop_path": 0.0}
            gpt |= {"scales": ((32, 32),), "codebook_size": 8192}
            sizes["vit-vqgan-base"] = gpt | {"depth": 24, "heads": 24}
            sizes["vit-vqgan-large"] = gpt | {"depth": 36, "heads": 32}
        case "rq":
            small = {name: values | {"depth_blocks": 1} for name, values in small.items()}
            sizes = {f"rq-d{depth}": {"depth": depth} for depth in (12, 16, 20, 24)}
        case "maskgit":
            sizes = {f"maskgit-d{depth}": {"depth": depth} for depth in (12, 16, 24)}
        case "dit":  # width 1152 over latents of 4 channels, as the public model
            public = {"scales": ((32, 32),), "latent_channels": 4, "drop_path": 0.0, "patch": 2}
            sizes = {"dit-xl-2": public | {"depth": 28, "heads": 18}}
        case _:
            sizes = {}
    config = architecture(kind)
    return {name: from_dict(config, values) for name, values in (small | sizes).items()}


def r3gan_presets() -> dict[str, R3GANConfig]:
    """R3GANs by name: small ones, and those that were published."""
    four = (768,) * 4
    return {
        "small": R3GANConfig(widths=(512, 256, 96, 48, 24)),
        "tiny": R3GANConfig(widths=(16, 8, 8), latent=8),
        "r3gan-small-64": R3GANConfig(),
        "r3gan-cifar10": R3GANConfig(widths=four),
        "r3gan-ffhq-64": R3GANConfig(widths=(*four, 384)),
        "r3gan-ffhq-256": R3GANConfig(widths=(*four, 384, 192, 96)),
        "r3gan-imagenet-32": R3GANConfig(widths=(1536,) * 4, group_width=32, classes=1000),
        "r3gan-imagenet-64": R3GANConfig(widths=(1536,) * 5, group_width=32, classes=1000),
    }


ONE_STEP_PRESETS: dict[str, Callable[[], dict[str, Any]]] = {"r3gan": r3gan_presets, "stylegan-xl": stylegan_xl_presets}


def recipes(kind: str) -> dict[str, dict[str, Any]]:
    """The published training settings of a kind's presets, as far as they differ from the defaults."""
    made = {"var": transformer_recipes, "r3gan": r3gan_recipes, "stylegan-xl": stylegan_xl_recipes}
    return made[kind]() if kind in made else {}


def r3gan_recipes() -> dict[str, dict[str, Any]]:
    """Batch, steps, penalty, augmentation and half-life of the average as published; no sample loses its class."""

    def recipe(batch: int, images: float, penalty: float, augment: float, average: float) -> dict[str, Any]:
        objective = {"penalty": penalty, "penalty_end": penalty / 10, "augment_end": augment}
        counts = {"batch_size": batch, "steps": round(images / batch), "class_dropout": 0.0}
        return counts | {"objective": objective, "optimiser": {"ema_half_life": average}}

    return {
        "r3gan-cifar10": recipe(512, 2e7, 0.05, 0.55, 0.25),
        "r3gan-ffhq-64": recipe(256, 2e7, 2.0, 0.3, 0.025),
        "r3gan-ffhq-256": recipe(256, 2e7, 150.0, 0.3, 0.025),
        "r3gan-imagenet-32": recipe(4096, 2e8, 0.5, 0.5, 0.25),
        "r3gan-imagenet-64": recipe(4096, 2e8, 1.0, 0.4, 0.25),
    }


def transformer_recipes() -> dict[str, dict[str, Any]]:
    """The published training settings of each official size, as far as they differ from the defaults.

    Batch, epochs, learning rate and its end, initial gamma, the end of weight decay, and crops from images resized to
    1.125 x the crop. The authors trained in float16, which any GPU has; the default is bf16. `var-d12` has no recipe
    of its own and takes `var-d16`'s.
    """

    def recipe(batch: int, epochs: int, rate: float, final: float, gamma: float, decay_end: float = -1.0) -> dict:
        optimiser = {"learning_rate": rate, "final": final, "weight_decay_end": decay_end}
        counts = {"batch_size": batch, "epochs": float(epochs), "enlarge": 1.125}
        return counts | {"gamma": gamma, "optimiser": optimiser}

    return {
        "var-d12": recipe(768, 200, 1e-4, 0.1, 1e-3),
        "var-d16": recipe(768, 200, 1e-4, 0.1, 1e-3),
        "var-d20": recipe(768, 250, 1e-4, 0.1, 1e-3),
        "var-d24": recipe(768, 350, 8e-5, 0.01, 1e-4),
        "var-d30": recipe(1024, 350, 8e-5, 0.01, 1e-5, 0.08),
        "var-d36": recipe(768, 350, 8e-5, 0.01, 5e-6, 0.08),
    }
