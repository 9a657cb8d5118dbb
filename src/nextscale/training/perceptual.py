"""Perceptual distance in the features of a torchvision backbone (after LPIPS, arXiv 1801.03924).

Shapes: B batch, C channels, (H, W) pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

DEFAULT_LAYERS = {
    "mobilenet_v2": ("features.1", "features.3", "features.6", "features.10", "features.13"),
    "vgg16": ("features.3", "features.8", "features.15", "features.22", "features.29"),
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "efficientnet_b0": ("features.1", "features.2", "features.3", "features.5", "features.7"),
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_backbone(name: str, weights: Path | None = None) -> nn.Module:
    """A torchvision classifier with its ImageNet weights, or with those of a local state dict.

    Raises ValueError when the name is unknown or the weights cannot be had.
    """
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise ValueError(f"backbone {name!r} is not a torchvision model; for example mobilenet_v2, vgg16 or resnet50")
    if weights is None:
        try:
            return get_model(name, weights="DEFAULT" if name != "mobilenet_v2" else "IMAGENET1K_V1").eval()
        except OSError as error:
            raise ValueError(
                f"the ImageNet weights of {name} could not be fetched ({error}); put the file into "
                "$TORCH_HOME/hub/checkpoints or name it with --perceptual-weights"
            ) from error
    model = get_model(name, weights=None)
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


class PerceptualDistance(nn.Module):
    """Mean squared difference of channel-normalised features, summed over the layers."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, *, weights: Path | None = None, layers: tuple[str, ...] = ()) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        layers = layers or DEFAULT_LAYERS.get(backbone, ())
        if not layers:
            raise ValueError(
                f"name the layers of {backbone} to compare; defaults exist for {', '.join(DEFAULT_LAYERS)}"
            )
        self.extractor = create_feature_extractor(load_backbone(backbone, weights), list(layers)).requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> PerceptualDistance:
        """The backbone always stays in evaluation mode."""
        return super().train(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Unit-norm feature maps of (B, 3, H, W) in [-1, 1]."""
        normal = ((images + 1) / 2 - self.mean) / self.std
        maps = self.extractor(normal.contiguous(memory_format=torch.channels_last)).values()
        return [nn.functional.normalize(features.float(), dim=1, eps=1e-6) for features in maps]

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scalar distance of two batches (B, 3, H, W) in [-1, 1]; gradients flow to `images`."""
        with torch.no_grad():
            wanted = self.features(targets)
        pairs = zip(self.features(images), wanted, strict=True)
        return torch.stack([(a - b).square().sum(dim=1).mean() for a, b in pairs]).sum()
