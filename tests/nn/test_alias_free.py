"""Filters against the response they are designed for; signals and resampling against StyleGAN3's published sizes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from nextscale.nn.alias_free import Resampling, Signal, filtered_leaky_relu, grown, lowpass, progression, upsampled

CPU = torch.device("cpu")


def response(weights: torch.Tensor, frequency: float, rate: float) -> float:
    """Gain of a symmetric filter at a frequency: its Fourier sum about the middle, written out."""
    places = torch.arange(len(weights), dtype=torch.float64) - (len(weights) - 1) / 2
    return float((weights.double() * torch.cos(2 * math.pi * frequency / rate * places)).sum())


@pytest.mark.parametrize(("taps", "cutoff", "half_width"), [(24, 8.0, 4.5), (48, 6.0, 3.0), (12, 4.3, 3.7)])
def test_filters_pass_and_stop_as_they_are_designed_to(taps: int, cutoff: float, half_width: float) -> None:
    rate = 64.0
    weights = lowpass(taps, cutoff, half_width, rate, CPU)
    attenuation = 2.285 * (taps - 1) * math.pi * 2 * half_width / (rate / 2) + 7.95  # Kaiser's, in decibels
    ripple = 10 ** (-attenuation / 20)
    assert weights.sum() == pytest.approx(1, abs=1e-6) and torch.equal(weights, weights.flip(0))
    assert response(weights, cutoff, rate) == pytest.approx(0.5, abs=0.02)
    passed = [response(weights, f, rate) for f in torch.linspace(0, cutoff - half_width, 20).tolist()]
    stopped = [response(weights, f, rate) for f in torch.linspace(cutoff + half_width, rate / 2, 50).tolist()]
    # The ripples of both edges, at the cutoff and its negative, may meet.
    assert max(abs(value - 1) for value in passed) < 2 * ripple
    assert max(abs(value) for value in stopped) < 2 * ripple


def test_signals_are_the_published_ones() -> None:
    """StyleGAN3-T at 256: 14 layers (figure 4c of the paper: sizes, rates and channels)."""
    signals = progression(256, 14, channels=(16384, 512))
    assert [signal.size for signal in signals] == [36] * 3 + [52] * 2 + [84] * 2 + [148] * 3 + [276] * 3 + [256] * 2
    assert [signal.channels for signal in signals] == [512] * 7 + [362, 256, 181, 128, 91, 64, 64, 3]
    assert (signals[0].cutoff, signals[0].rate, signals[-1].cutoff) == (2, 16, 128)
    stopbands = [signal.cutoff + signal.half_width for signal in signals]
    assert all(2 * signal.cutoff <= signal.rate for signal in signals)
    assert all(stopband >= signal.rate / 2 for stopband, signal in zip(stopbands, signals, strict=True))


def test_growth_keeps_all_layers_before_the_critically_sampled_ones() -> None:
    stem = progression(16, 7, channels=(512, 16))
    signals, kept = grown(stem, 64, 4, channels=(512, 16))
    assert kept == 5 and signals[:5] == stem[:5] and len(signals) == 10
    assert signals[5] == signals[4], "the first new layer reads and writes what the last kept one wrote"
    assert (signals[-1].size, signals[-1].channels, signals[-2].size) == (64, 3, 64)


def test_upsampling_is_zeros_between_samples_and_a_convolution() -> None:
    x, weights = torch.randn(2, 3, 5, 6), lowpass(12, 2.0, 1.0, 16.0, CPU)
    sparse = torch.zeros(2, 3, 9, 11)
    sparse[..., ::2, ::2] = x
    kernel = (weights[:, None] * weights[None, :]).expand(3, 1, 12, 12)
    expected = F.conv2d(sparse, kernel, padding=11, groups=3)[..., 3:-4, 3:-4]
    assert torch.allclose(upsampled(x, weights, 2, (3, 4)), expected, atol=1e-6)


@pytest.mark.parametrize(("rates", "factors"), [((16, 16), (2, 2)), ((16, 32), (4, 2)), ((16, 64), (8, 2))])
def test_a_wave_keeps_its_place(rates: tuple[int, int], factors: tuple[int, int]) -> None:
    """What is positive everywhere passes a leaky ReLU with its gain alone, so resampling must give the same wave.

    Half a sample off would be an error of 0.25; the filters' ripple is some 0.05.
    """
    before, after = (Signal(rate=r, cutoff=r / 3, half_width=r / 6, size=r + 20, channels=1) for r in rates)
    resampling = Resampling(before, after, 3)
    assert (resampling.up, resampling.down) == factors

    def wave(size: int, rate: int) -> torch.Tensor:
        places = (torch.arange(size, dtype=torch.float64) + 0.5 - size / 2) / rate
        return (2 + torch.sin(2 * math.pi * (1.5 * places[:, None] + places[None, :] + 0.1))).float()

    made = filtered_leaky_relu(wave(before.size + 2, before.rate)[None, None], resampling)[0, 0]
    inner = slice(12, -12)
    expected = wave(after.size, after.rate) * math.sqrt(2)
    assert made.shape == expected.shape
    assert (made - expected)[inner, inner].abs().max() < 0.1
