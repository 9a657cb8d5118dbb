"""Named configurations. Each function returns whole configs; `depth` is the transformer's one dial."""

from __future__ import annotations

from typing import Any

from nextscale.config import from_dict
from nextscale.families.config import VARConfig, architecture
from nextscale.tokenizer.config import VQVAEConfig

SCALES_512 = tuple((side, side) for side in (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))

PLAIN: dict[str, Any] = {"depth": 6, "heads": 4, "drop_path": 0.0, "adaln": False, "qk_normalisation": False}
"""Where the ablation starts; 6 blocks without AdaLN have as many parameters as 4 with it."""


def small_scales(final: int) -> tuple[tuple[int, int], ...]:
    """A schedule that grows by about a third a scale up to `final`: 8 -> 1,2,3,4,6,8."""
    sides = [final]
    while sides[-1] > 1:
        sides.append(max(1, min(sides[-1] - 1, round(sides[-1] / 1.36))))
    return tuple((side, side) for side in reversed(sides))


def tokenizer_presets() -> dict[str, VQVAEConfig]:
    """Tokenizers by name; `vae-ch160v4096z32` is the official one."""
    small = {"channels": 64, "multipliers": (1, 2, 2), "encoder_blocks": 1, "decoder_blocks": 2, "attention": False}
    return {
        "vae-ch160v4096z32": VQVAEConfig(),
        "small-32": VQVAEConfig(scales=small_scales(8), patch=1, **small),
        "small-64": VQVAEConfig(scales=small_scales(8), patch=2, **small),
        "small-128": VQVAEConfig(scales=small_scales(16), patch=2, **small),
        "tiny-16": VQVAEConfig(
            scales=small_scales(4), channels=16, multipliers=(1, 2), encoder_blocks=1, decoder_blocks=1,
            patch=2, attention=False, codebook_size=64, latent_channels=8,
        ),
    }  # fmt: skip


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
    small: dict[str, Any] = {"small": {"depth": 4, "drop_path": 0.0}, "tiny": {"depth": 2, "drop_path": 0.0}}
    match kind:
        case "raster":  # on 16 x 16, at VAR's sizes
            small["ablation-raster"] = PLAIN
            sizes = {f"raster-d{depth}": {"depth": depth} for depth in (12, 16, 20, 24, 30)}
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


def tokenizer_recipes() -> dict[str, dict[str, Any]]:
    """Training settings of the official tokenizer: those of the authors' single-scale trainer, as a hint."""
    return {
        "vae-ch160v4096z32": {
            "batch_size": 768,
            "enlarge": 1.125,
            "l1": 0.2,
            "l2": 1.0,
            "perceptual": 1.0,
            "perceptual_backbone": "lpips",
            "adversary": {"adversarial": 0.4, "adversarial_start": 0.22},
            "optimiser": {
                "learning_rate": 1e-4,  # 3e-4 at a batch of 768
                "beta1": 0.5,
                "beta2": 0.9,
                "weight_decay": 0.005,
                "clip": 10.0,
                "ema": 0.9999,
            },
        }
    }


def named(presets: dict, name: str):
    """The preset of that name. Raises ValueError listing the names."""
    if name not in presets:
        raise ValueError(f"preset {name!r} is not known; expected one of {', '.join(presets)}")
    return presets[name]
