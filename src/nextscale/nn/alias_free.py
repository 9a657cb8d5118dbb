"""Alias-free signals of StyleGAN3 (arXiv 2106.12423): how layers sample them, and the filters between rates.

Frequencies are in cycles per image side, rates in samples per image side. Maps are wider than the image by a margin, so
that what filters make up at their edges stays outside of it.
Shapes: B batch, C channels, (H, W) samples.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN = 10
"""Samples on each side of a map outside of the image."""
CRITICAL = 2
"""Layers at the end that use the whole band of the image (appendix D)."""
FIRST_CUTOFF, FIRST_STOPBAND = 2.0, 2**2.1
"""Of the Fourier features."""
LAST_STOPBAND = 2**0.3
"""Of the image, relative to its cutoff."""
TAPS = 6
"""Taps of a filter for each sample of the lower rate."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a layer reads or writes: maps of `size` x `size` samples with nothing above `cutoff + half_width`."""

    rate: int
    cutoff: float
    half_width: float
    "Half the width of the band in which filters fall off."
    size: int
    channels: int


def progression(
    image_size: int, layers: int, *, channels: tuple[int, int], after: Signal | None = None
) -> list[Signal]:
    """Signals from the input to the image, one for each of `layers` and one for the image itself (eq. 5 and 6).

    Cutoffs and stopbands grow geometrically up to the critically sampled layers; `channels` are (base, most):
    a layer has base / 2 / cutoff of them. The input is `after`, or Fourier features.
    """
    first = (FIRST_CUTOFF, FIRST_STOPBAND) if after is None else (after.cutoff, after.cutoff + after.half_width)
    last = (image_size / 2, image_size / 2 * LAST_STOPBAND)
    signals = []
    for layer in range(layers + 1):
        share = min(layer / (layers - CRITICAL), 1.0)
        cutoff, stopband = (begin * (end / begin) ** share for begin, end in zip(first, last, strict=True))
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, image_size)))
        signals.append(
            Signal(
                rate=rate,
                cutoff=cutoff,
                half_width=max(stopband, rate / 2) - cutoff,
                size=image_size if layer >= layers - 1 else rate + 2 * MARGIN,
                channels=3 if layer == layers else round(min(channels[0] / 2 / cutoff, channels[1])),
            )
        )
    return signals if after is None else [after, *signals[1:]]


def grown(
    signals: list[Signal], image_size: int, layers: int, *, channels: tuple[int, int]
) -> tuple[list[Signal], int]:
    """Signals of a generator that is grown to another image size, and how many of its layers stay as they are.

    The critically sampled layers and the one that makes colours give way to `layers` new ones and their own such layer
    (StyleGAN-XL, section 3.2); `channels` as in `progression`.
    """
    kept = signals[: -CRITICAL - 1]
    return kept + progression(image_size, layers, channels=channels, after=kept[-1]), len(kept)


@lru_cache
def lowpass(taps: int, cutoff: float, half_width: float, rate: float, device: torch.device) -> Tensor:
    """A Kaiser-windowed low-pass filter with gain 1 at frequency 0, (taps,) float32 (appendix C).

    The window is the one for a fall-off between cutoff - half_width and cutoff + half_width (Kaiser's formulas).
    """
    attenuation = 2.285 * (taps - 1) * math.pi * 2 * half_width / (rate / 2) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        beta = 0.5842 * max(0.0, attenuation - 21) ** 0.4 + 0.07886 * max(0.0, attenuation - 21)
    places = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    ideal = torch.sinc(places * (2 * cutoff / rate))
    weights = ideal * torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)
    return (weights / weights.sum()).to(device, torch.float32)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """No autocast on a tensor's device for a while: float32 stays float32."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


@dataclass(frozen=True)
class Resampling:
    """From one signal to the next by way of a rate twice as high as both, where a nonlinearity may do no harm."""

    before: Signal
    after: Signal
    kernel: int
    "Side of the convolution before it, which widens maps by kernel - 1."

    @property
    def rate(self) -> int:
        """The rate of the nonlinearity."""
        return 2 * max(self.before.rate, self.after.rate)

    @property
    def up(self) -> int:
        return self.rate // self.before.rate

    @property
    def down(self) -> int:
        return self.rate // self.after.rate

    @property
    def crop(self) -> tuple[int, int]:
        """Samples at the beginning and the end that the filters' full output has too many.

        The middle of the map stays where it is (appendix C.3).
        """
        width = self.before.size + self.kernel - 1
        between = (self.after.size - 1) * self.down + self.down * TAPS
        surplus = (width - 1) * self.up + self.up * TAPS - between
        begin = self.up * TAPS - 1 - (between - width * self.up + self.up * TAPS - 1 + self.up) // 2
        return begin, surplus - begin


def filtered_leaky_relu(x: Tensor, resampling: Resampling, *, slope: float = 0.2) -> Tensor:
    """Leaky ReLU at a higher rate, then the filter of the next signal: (B, C, H, W) -> (B, C, size, size) float32.

    The gain is sqrt(2), which keeps the variance; the filter before it gives it, to both sides alike.
    """
    before, after, up, down = resampling.before, resampling.after, resampling.up, resampling.down
    with full_precision(x):
        wide = lowpass(TAPS * up, before.cutoff, before.half_width, resampling.rate, x.device) * (up * 2**0.25)
        x = F.leaky_relu(upsampled(x.float(), wide, up, resampling.crop), slope)
        return downsampled(x, lowpass(TAPS * down, after.cutoff, after.half_width, resampling.rate, x.device), down)


def upsampled(x: Tensor, weights: Tensor, factor: int, crop: tuple[int, int]) -> Tensor:
    """Zeros between samples, then the filter along both sides; `crop` samples are cut at the begin and the end."""
    channels, both = x.shape[1], min(crop)
    for shape, unit in (((-1, 1), (1, 0)), ((1, -1), (0, 1))):
        kernel = weights.view(1, 1, *shape).expand(channels, -1, -1, -1).contiguous()
        stride, padding = tuple(factor if one else 1 for one in unit), tuple(both * one for one in unit)
        x = F.conv_transpose2d(x, kernel, stride=stride, padding=padding, groups=channels)
    begin, end = (side - both for side in crop)
    return x[..., begin : x.shape[-2] - end, begin : x.shape[-1] - end]


def downsampled(x: Tensor, weights: Tensor, factor: int) -> Tensor:
    """The filter along both sides, then every `factor`-th sample."""
    channels = x.shape[1]
    for shape, stride in (((-1, 1), (factor, 1)), ((1, -1), (1, factor))):
        kernel = weights.view(1, 1, *shape).expand(channels, -1, -1, -1).contiguous()
        x = F.conv2d(x, kernel, stride=stride, groups=channels)
    return x
