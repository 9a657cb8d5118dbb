"""Differentiable augmentation (arXiv 2006.10738): what discriminators see, so that they need less data.

Shapes: B batch, (H, W) pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def augmented(batches: Sequence[Tensor], probability: float = 1.0) -> list[Tensor]:
    """Batches (B, 3, H, W), each image with a random colour, shift and hole of its own, each with this probability."""
    changes: tuple[Callable[[Tensor], Tensor], ...] = (recoloured, translated, cut_out)
    if not probability:
        return list(batches)
    shown = []
    for images in batches:
        for change in changes:
            images = change(images) if probability >= 1 else sometimes(change, images, probability)
        shown.append(images)
    return shown


def sometimes(change: Callable[[Tensor], Tensor], images: Tensor, probability: float) -> Tensor:
    """Images of which each is changed with this probability."""
    return torch.where(uniform(images) < probability, change(images), images)


def uniform(images: Tensor) -> Tensor:
    """A number in [0, 1) per image, (B, 1, 1, 1)."""
    return torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)


def recoloured(images: Tensor) -> Tensor:
    """Brightness by up to a quarter of the range, saturation x 0..2, contrast x 0.5..1.5."""
    images = images + (uniform(images) - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2 * uniform(images)) + grey
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - middle) * (uniform(images) + 0.5) + middle


def translated(images: Tensor) -> Tensor:
    """Moved by up to an eighth of each side; pixels from outside are 0."""
    batch, _, height, width = images.shape
    rows, columns = (
        (torch.arange(side, device=images.device) + shift)
        for side, shift in (
            (size, torch.randint(-(size // 8), size // 8 + 1, (batch, 1), device=images.device))
            for size in (height, width)
        )
    )  # (B, H), (B, W): where each pixel comes from
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    index = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    moved = images.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, images.shape[1], -1))
    return moved.view_as(images) * inside[:, None]


def cut_out(images: Tensor) -> Tensor:
    """A rectangle with half of each side is 0; its middle is anywhere in the image."""
    batch, _, height, width = images.shape
    covered = []
    for size in (height, width):
        middle = torch.randint(0, size + 1, (batch, 1), device=images.device)  # the edge before this pixel
        covered.append((torch.arange(size, device=images.device) + 0.5 - middle).abs() < size / 4)
    return images * ~(covered[0][:, None, :, None] & covered[1][:, None, None, :])
