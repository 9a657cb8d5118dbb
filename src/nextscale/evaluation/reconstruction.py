"""Reconstruction error of a tokenizer."""

from __future__ import annotations

from torch import Tensor


def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (..., 3, H, W) in [-1, 1] -> (...)."""
    error = (images.float() - reconstructions.float()).square().flatten(-3).mean(dim=-1)
    return 10 * (4 / error.clamp_min(1e-10)).log10()
