"""Named configurations. Each function returns whole configs; `depth` is the transformer's one dial."""

from __future__ import annotations

from nextscale.models.var import VARConfig
from nextscale.tokenizer.vqvae import VQVAEConfig

SCALES_512 = tuple((side, side) for side in (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))


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
        "tiny": VARConfig(depth=2, drop_path=0.0),
    }


def named(presets: dict, name: str):
    """The preset of that name. Raises ValueError listing the names."""
    if name not in presets:
        raise ValueError(f"preset {name!r} is not known; expected one of {', '.join(presets)}")
    return presets[name]
