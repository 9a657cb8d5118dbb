"""The architecture of the tokenizer, without the networks: quick to import, for help and for reading settings."""

from __future__ import annotations

from dataclasses import dataclass

from nextscale.config import require_at_least
from nextscale.pyramid import ScaleSchedule, Size


def shared_convolutions(scales: int, convolutions: int = 4) -> tuple[int, ...]:
    """Which of the shared phi convolutions each scale uses, spread evenly (official code, `quant.py`).

    Scale k sits at (k-1)/(K-1) and takes the nearest of the ticks 1/(3n) ... 1 - 1/(3n); exact integer
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
