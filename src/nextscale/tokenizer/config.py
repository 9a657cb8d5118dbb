"""The architecture of the tokenizer and its presets, without torch so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nextscale.config import require_at_least
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


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig:
    """Architecture of the tokenizer. The defaults are the official `vae_ch160v4096z32`."""

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
    "Space-to-depth factor of the stem (and pixel-shuffle tail); 2 saves most of a small CNN's work."
    attention: bool = True
    "Self-attention at the lowest resolution."
    dropout: float = 0.0
    "Dropout inside residual blocks."
    phi_map: tuple[int, ...] = ()
    "Which shared phi convolution each scale uses; empty derives the official rule with four."
    beta: float = 0.25
    "Weight of the commitment term in the quantiser loss."

    def __post_init__(self) -> None:
        schedule = ScaleSchedule(self.scales)
        object.__setattr__(self, "scales", schedule.sizes)
        if not self.phi_map:
            object.__setattr__(self, "phi_map", shared_convolutions(len(schedule)))
        if len(self.phi_map) != len(schedule):
            raise ValueError(f"phi_map needs one entry per scale ({len(schedule)}), got {len(self.phi_map)}")
        require_at_least(
            self, 1, "codebook_size", "latent_channels", "channels", "encoder_blocks", "decoder_blocks", "patch"
        )

    @property
    def schedule(self) -> ScaleSchedule:
        """The scales of the tokens."""
        return ScaleSchedule(self.scales)

    @property
    def stride(self) -> int:
        """Pixels per latent position along each side."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def image_size(self) -> Size:
        """Height and width of the images, in pixels."""
        height, width = self.schedule.final
        return height * self.stride, width * self.stride


def small_scales(final: int) -> tuple[tuple[int, int], ...]:
    """A schedule that grows by about a third a scale up to `final`: 8 -> 1,2,3,4,6,8."""
    sides = [final]
    while sides[-1] > 1:
        sides.append(max(1, min(sides[-1] - 1, round(sides[-1] / 1.36))))
    return tuple((side, side) for side in reversed(sides))


def tokenizer_presets() -> dict[str, VQVAEConfig]:
    """Tokenizers by name; `vae-ch160v4096z32` is the official one."""
    small = {"channels": 64, "multipliers": (1, 2, 2), "encoder_blocks": 1, "decoder_blocks": 2, "attention": False}
    tiny = {"channels": 16, "multipliers": (1, 2), "encoder_blocks": 1, "decoder_blocks": 1, "attention": False}
    return {
        "vae-ch160v4096z32": VQVAEConfig(),
        "small-32": VQVAEConfig(scales=small_scales(8), patch=1, **small),
        "small-64": VQVAEConfig(scales=small_scales(8), patch=2, **small),
        "small-128": VQVAEConfig(scales=small_scales(16), patch=2, **small),
        "tiny-16": VQVAEConfig(scales=small_scales(4), patch=2, codebook_size=64, latent_channels=8, **tiny),
    }


def tokenizer_recipes() -> dict[str, dict[str, Any]]:
    """Training settings of the official tokenizer, from the authors' single-scale trainer: theirs are not published."""
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
    return {"vae-ch160v4096z32": {**recipe, "adversary": adversary, "optimiser": optimiser}}
