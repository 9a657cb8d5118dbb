"""Pooled features of a torchvision classifier.

Shapes: B batch, N images, D features.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from nextscale.nn.backbone import imagenet_normalised, load_backbone

HEADS = ("classifier", "fc", "head", "heads")
"""Names torchvision gives the last layers of its classifiers."""


class FeatureNetwork(nn.Module):
    """What a classifier's last layers see: one vector per image, at the images' own size."""

    def __init__(self, backbone: str = "mobilenet_v2", *, weights: str | Path = "") -> None:
        """`weights` is a state dict; without it torchvision's ImageNet weights. Raises ValueError."""
        super().__init__()
        self.name = backbone
        self.network = load_backbone(backbone, weights).requires_grad_(False)
        head = next((name for name in HEADS if hasattr(self.network, name)), None)
        if head is None:
            raise ValueError(f"backbone {backbone}: has none of the heads {', '.join(HEADS)}; choose another")
        setattr(self.network, head, nn.Identity())
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, D) float32."""
        normal = imagenet_normalised(images.float()).contiguous(memory_format=torch.channels_last)
        return self.network(normal).flatten(1).float()

    def extract(self, batches: Iterable[Tensor]) -> Tensor:
        """Features of batches of images in [-1, 1], (N, D) float32 on the CPU."""
        device = next(self.network.parameters()).device
        return torch.cat([self(images.to(device)).cpu() for images in batches])
