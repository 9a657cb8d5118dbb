"""The architecture of the tokenizer and its presets, without torch so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from nextscale.config import require_at_least, to_dict
from nextscale.nn import HEAD_WIDTH
from nextscale.pyramid import ScaleSchedule, Size


def shared_convolutions(scales: int, convolutions: int = 4) -> tuple[int, ...]:
    """Which of the n shared phi convolutions each of K scales uses, spread evenly (official code, `quant.py`).

    Scale k is at (k-1)/(K-1) and takes the nearest of n evenly spaced ticks from 1/(3n) to 1 - 1/(3n). Integer
    arithmetic with ties upwards reproduces the official map of ten scales, [0,0,1,1,1,2,2,3,3,3].
    """
    if convolutions == 1 or scales == 1:
        return (0,) * scales
    n, last = convolutions, scales - 1
    # Tick i is at (1 + i (3n - 2)/(n - 1)) / 3n; the boundary between ticks i and i+1 is their midpoint.
    # Position k/last passes it when  2 * 3n * (n-1) * k >= (2 (n-1) + (2i+1) (3n-2)) * last.
    return tuple(
        sum(6 * n * (n - 1) * k >= (2 * (n - 1) + (2 * i + 1) * (3 * n - 2)) * last for i in range(n - 1))
        for k in range(scales)
    )


CNN = (
    "channels", "multipliers", "encoder_blocks", "decoder_blocks", "attention", "dropout", "feature_channels",
    "decoder_channels",
)  # fmt: skip
VIT = ("width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads")
"""Settings that only one architecture has."""


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig:
    """Architecture of the tokenizer. The defaults are the official `vae_ch160v4096z32`.

    A ViT has the defaults of ViT-VQGAN's Small, and factorised codes: linear maps lead from its width to the latents
    and back. Settings of a CNN mean nothing to it and keep their defaults.
    Raises ValueError for settings that do not go together.
    """

    scales: tuple[tuple[int, int], ...] = tuple((s, s) for s in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    "Token-map sizes (height, width), coarse to fine."
    codebook_size: int = 4096
    "Entries of the codebook, V."
    latent_channels: int = 32
    "Channels of the latent map and width of a codebook entry, C."
    channels: int = 160
    "Channels of the first CNN level."
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    "Channel multiplier per resolution level; each level after the first halves the resolution."
    encoder_blocks: int = 2
    "Residual blocks per encoder level."
    decoder_blocks: int = 3
    "Residual blocks per decoder level."
    patch: int = 1
    "Space-to-depth factor of the stem (and pixel-shuffle tail); 2 saves most of a small CNN's work. A ViT's patch."
    attention: bool = True
    "Self-attention at the lowest resolution."
    dropout: float = 0.0
    "Dropout inside residual blocks."
    phi_map: tuple[int, ...] = ()
    "Which shared phi convolution each scale uses, -1 for none; empty derives the official rule with four."
    beta: float = 0.25
    "Weight of the commitment term in the quantiser loss."
    architecture: str = "cnn"
    "Encoder and decoder: cnn (the official one) or vit (ViT-VQGAN's transformers)."
    width: int = 0
    "Width of a ViT encoder, a multiple of 4 [default: 512]"
    depth: int = 0
    "Blocks of a ViT encoder [default: 8]"
    heads: int = 0
    "Attention heads of a ViT encoder, each 64 wide [default: width / 64]"
    decoder_width: int = 0
    "Width of a ViT decoder [default: the encoder's]"
    decoder_depth: int = 0
    "Blocks of a ViT decoder [default: the encoder's]"
    decoder_heads: int = 0
    "Attention heads of a ViT decoder [default: decoder width / 64]"
    feature_channels: int = 0
    "Factorised codes: a CNN's channels before a linear map to the latents, and after one back; 0 is off."
    normalised_codes: bool = False
    "Latents and codes are vectors of length 1, compared by their cosine."
    decoder_channels: int = 0
    "Channels of a CNN decoder's first level [default: the encoder's, or half of them in distill decoder]"

    def __post_init__(self) -> None:
        schedule = ScaleSchedule(self.scales)
        object.__setattr__(self, "scales", schedule.sizes)
        if not self.phi_map:
            object.__setattr__(self, "phi_map", shared_convolutions(len(schedule)))
        if len(self.phi_map) != len(schedule) or min(self.phi_map) < -1:
            raise ValueError(f"phi_map needs one entry from -1 per scale ({len(schedule)}), got {self.phi_map}")
        require_at_least(
            self, 1, "codebook_size", "latent_channels", "channels", "encoder_blocks", "decoder_blocks", "patch"
        )
        require_at_least(self, 0, "feature_channels", "decoder_channels", *VIT)
        self._settle_architecture()
        if self.normalised_codes and self.latent_channels == 1:
            raise ValueError("normalised_codes of a single channel are only 1 and -1; give latent_channels")
        if self.normalised_codes and len(schedule) > 1 and min(self.phi_map) < 0:
            raise ValueError(
                "normalised_codes of several scales need phi, which makes the codes of each shorter than 1"
            )

    def _settle_architecture(self) -> None:
        """Fill in what a ViT derives, or refuse its settings for a CNN."""
        if self.architecture not in ("cnn", "vit"):
            raise ValueError(f"architecture {self.architecture!r} is not known; expected cnn or vit")
        if self.architecture == "cnn":
            wrong = [name for name in VIT if getattr(self, name)]
            if wrong:
                raise ValueError(f"{wrong[0]} is a ViT's; give architecture vit as well")
            return
        width, depth = self.width or 512, self.depth or 8
        decoder_width = self.decoder_width or width
        settled = {field.name: field.default for field in fields(self) if field.name in CNN}
        settled |= {"width": width, "depth": depth, "heads": self.heads or max(1, width // HEAD_WIDTH)}
        settled |= {"decoder_width": decoder_width, "decoder_depth": self.decoder_depth or depth}
        settled["decoder_heads"] = self.decoder_heads or max(1, decoder_width // HEAD_WIDTH)
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        if width % 4 or decoder_width % 4:
            raise ValueError(f"widths of a ViT must be multiples of 4, got {width} and {decoder_width}")

    @property
    def unused(self) -> tuple[str, ...]:
        """Settings that mean nothing to this architecture."""
        return VIT if self.architecture == "cnn" else CNN

    def stored(self) -> dict[str, Any]:
        """What config.json holds: neither what is unused nor, so that older files keep their bytes, options not taken.

        Later options are those from `architecture` on.
        """
        names = [field.name for field in fields(self)]
        later = names[names.index("architecture") :]
        defaults = {field.name: field.default for field in fields(self)}
        left_out = {name for name in later if getattr(self, name) == defaults[name]} | set(self.unused)
        return {name: value for name, value in to_dict(self).items() if name not in left_out}

    @property
    def schedule(self) -> ScaleSchedule:
        """The scales of the tokens."""
        return ScaleSchedule(self.scales)

    @property
    def stride(self) -> int:
        """Pixels per latent position along each side."""
        return self.patch * (1 if self.architecture == "vit" else 2 ** (len(self.multipliers) - 1))

    @property
    def image_size(self) -> Size:
        """Height and width of the images, in pixels."""
        height, width = self.schedule.final
        return height * self.stride, width * self.stride

    @property
    def factorised(self) -> bool:
        """Whether linear maps lead from wider features to the latents, and back."""
        return self.architecture == "vit" or self.feature_channels > 0

    @property
    def largest_map(self) -> int:
        """Numbers in the decoder's largest map of an image."""
        height, width = self.image_size
        if self.architecture == "vit":
            return height * width // self.patch**2 * 4 * self.decoder_width
        return height * width // self.patch**2 * (self.decoder_channels or self.channels) * self.multipliers[0]


def small_scales(final: int) -> tuple[tuple[int, int], ...]:
    """A schedule that grows by about a third a scale up to `final`: 8 -> 1,2,3,4,6,8."""
    sides = [final]
    while sides[-1] > 1:
        sides.append(max(1, min(sides[-1] - 1, round(sides[-1] / 1.36))))
    return tuple((side, side) for side in reversed(sides))


def tokenizer_presets() -> dict[str, VQVAEConfig]:
    """Tokenizers by name; `vae-ch160v4096z32` is the official one, `vit-vqgan-*` are ViT-VQGAN's.

    ViT-VQGAN's Large is a large decoder behind the small encoder, which reconstructed best.
    """
    cnn: dict[str, Any] = {"attention": False, "encoder_blocks": 1}
    small: dict[str, Any] = cnn | {"channels": 64, "multipliers": (1, 2, 2), "decoder_blocks": 2}
    tiny: dict[str, Any] = cnn | {"channels": 16, "multipliers": (1, 2), "decoder_blocks": 1}
    vit: dict[str, Any] = {"architecture": "vit", "normalised_codes": True}
    published: dict[str, Any] = vit | {"scales": ((32, 32),), "patch": 8, "codebook_size": 8192, "phi_map": (-1,)}
    large: dict[str, Any] = {"decoder_width": 1280, "decoder_depth": 32, "decoder_heads": 16}
    small_vit: dict[str, Any] = vit | {"width": 192, "depth": 4, "decoder_depth": 5}
    return {
        "vae-ch160v4096z32": VQVAEConfig(),
        "small-32": VQVAEConfig(scales=small_scales(8), patch=1, **small),
        "small-64": VQVAEConfig(scales=small_scales(8), patch=2, **small),
        "small-128": VQVAEConfig(scales=small_scales(16), patch=2, **small),
        "tiny-16": VQVAEConfig(scales=small_scales(4), patch=2, codebook_size=64, latent_channels=8, **tiny),
        "vit-vqgan-small": VQVAEConfig(**published),
        "vit-vqgan-base": VQVAEConfig(**published, width=768, depth=12),
        "vit-vqgan-large": VQVAEConfig(**published, **large),
        "vit-small-32": VQVAEConfig(scales=small_scales(8), patch=4, **small_vit),
        "vit-small-64": VQVAEConfig(scales=small_scales(8), patch=8, **small_vit),
        "vit-small-128": VQVAEConfig(scales=small_scales(16), patch=8, **small_vit),
    }


def tokenizer_recipes() -> dict[str, dict[str, Any]]:
    """Training settings of published tokenizers.

    The official one's are from the authors' single-scale trainer: theirs are not published. Those of ViT-VQGAN are the
    paper's and its public re-implementation's, without the logit-Laplace loss, which others found harmful.
    """
    recipe = {
        "batch_size": 768,
        "enlarge": 1.125,
        "l1": 0.2,
        "l2": 1.0,
        "perceptual": 1.0,
        "perceptual_backbone": "lpips",
    }
    adversary = {"adversarial": 0.4, "adversarial_start": 0.22}
    optimiser = {"beta1": 0.5, "beta2": 0.9, "weight_decay": 0.005, "clip": 10.0, "ema": 0.9999}
    optimiser["learning_rate"] = 1e-4  # 3e-4 at a batch of 768
    official = {**recipe, "adversary": adversary, "optimiser": optimiser}
    vit = {"steps": 500_000, "batch_size": 256, "l1": 0.0, "l2": 1.0, "perceptual": 0.1, "perceptual_backbone": "lpips"}
    judge = {"discriminator": "stylegan2", "discriminator_channels": 128, "adaptive": False}
    judge |= {"adversarial": 0.1, "adversarial_start": 0.0, "discriminator_augment": False}
    schedule = {"learning_rate": 1e-4, "warmup": 0.1, "flat": 0.0, "final": 0.5, "ema": 0.9999}
    schedule |= {"beta1": 0.9, "beta2": 0.99, "weight_decay": 1e-4}
    names = [name for name in tokenizer_presets() if name.startswith("vit-vqgan")]
    return {"vae-ch160v4096z32": official} | {
        name: {**vit, "adversary": judge, "optimiser": schedule} for name in names
    }
