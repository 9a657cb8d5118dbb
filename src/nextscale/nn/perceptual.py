"""Torchvision backbones as feature networks, and the perceptual distance in their features (LPIPS, arXiv 1801.03924).

Shapes: B batch, C channels, (H, W) pixels.
"""

from __future__ import annotations

import hashlib
import pickle
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from nextscale.errors import require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LPIPS = "lpips"
"""VGG16 with the channel weights that were fitted to human judgements, from torchmetrics."""
DEFAULT_LAYERS = {
    "mobilenet_v2": ("features.1", "features.3", "features.6", "features.10", "features.13"),
    "vgg16": ("features.3", "features.8", "features.15", "features.22", "features.29"),
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "efficientnet_b0": ("features.1", "features.2", "features.3", "features.5", "features.7"),
}


def load_backbone(name: str, weights: str | Path = "") -> nn.Module:
    """A torchvision classifier with its ImageNet weights, or with those of a local state dict of any number of classes.

    Without `weights`, torchvision fetches them into $TORCH_HOME/hub/checkpoints. Raises ValueError when the name is
    unknown, or the weights cannot be fetched or do not fit.
    """
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise ValueError(f"backbone {name!r} is not a torchvision model; for example mobilenet_v2, vgg16 or resnet50")
    if not weights:
        try:
            return get_model(name, weights="IMAGENET1K_V1").eval()
        except (KeyError, ValueError) as error:
            raise ValueError(f"torchvision has no ImageNet weights of {name}; give a file of them") from error
        except OSError as error:
            raise ValueError(
                f"the ImageNet weights of {name} could not be fetched ({error}); put torchvision's file into "
                "$TORCH_HOME/hub/checkpoints or give its path"
            ) from error
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        model = get_model(name, weights=None, num_classes=classes_told(state))
        model.load_state_dict(state)
    except (OSError, RuntimeError, pickle.UnpicklingError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{weights}: not a state dict of torchvision's {name} ({reason})") from error
    return model.eval()


def weights_at_hand(name: str) -> bool:
    """Whether torchvision's ImageNet weights of a classifier lie in $TORCH_HOME/hub/checkpoints."""
    from torchvision.models import get_model_weights

    url = get_model_weights(name)["IMAGENET1K_V1"].url
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]).is_file()


def classes_told(state: dict[str, Tensor]) -> int:
    """How many classes a classifier tells: the length of the last layer's bias, the last tensor of its state dict.

    Raises AttributeError where it does not hold tensors alone.
    """
    return next((value.shape[0] for value in reversed(state.values()) if value.dim()), 1)


def imagenet_normalised(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] with the mean and deviation that torchvision's ImageNet weights expect."""
    mean, std = imagenet_statistics(images.device, images.dtype)
    return ((images + 1) / 2 - mean) / std


@lru_cache
def imagenet_statistics(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Mean and deviation, (2, 1, 3, 1, 1); made once, because a copy to a GPU waits for it."""
    return torch.tensor((IMAGENET_MEAN, IMAGENET_STD), device=device, dtype=dtype).view(2, 1, 3, 1, 1)


class PerceptualDistance(nn.Module):
    """Mean squared difference of channel-normalised features, summed over the layers.

    The backbone `lpips` is LPIPS itself: VGG16 with learned channel weights (eq. 1 there; `weights` are VGG16's). In
    other torchvision backbones all channels have the same weight.

    With `shift`, each call first moves both batches by one random offset of up to that many pixels, edges mirrored.
    Otherwise a backbone's strides see only part of each period and miss patterns of dots (after E-LPIPS, arXiv
    1906.03973, section 3).

    The backbone runs in the type of autocast; in float32 its convolutions are TF32 on CUDA, torch's default, which is
    exact enough for a loss.
    """

    def __init__(
        self, backbone: str, *, weights: str | Path = "", layers: tuple[str, ...] = (), shift: int = 0
    ) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        self.channel_weights: nn.ParameterList | None = None
        if backbone == LPIPS:
            backbone, layers = "vgg16", DEFAULT_LAYERS["vgg16"]
            self.channel_weights = nn.ParameterList(learned_weights()).requires_grad_(False)
        layers = layers or DEFAULT_LAYERS.get(backbone, ())
        if not layers:
            known = ", ".join(DEFAULT_LAYERS)
            raise ValueError(f"name the layers of {backbone} to compare; defaults exist for {known}")
        self.shift = shift
        self.extractor = create_feature_extractor(load_backbone(backbone, weights), list(layers)).requires_grad_(False)

    def train(self, mode: bool = True) -> PerceptualDistance:
        """The backbone always stays in evaluation mode."""
        return super().train(False)

    def fingerprint(self) -> str:
        """SHA-256 over the backbone's weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.extractor.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def features(self, images: Tensor) -> list[Tensor]:
        """Unit-norm feature maps of (B, 3, H, W) in [-1, 1]."""
        maps = self.extractor(imagenet_normalised(images).contiguous(memory_format=torch.channels_last)).values()
        floats = (features.float() for features in maps)
        return [features / (features.square().sum(dim=1, keepdim=True) + 1e-8).sqrt() for features in floats]

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scalar distance of two batches (B, 3, H, W) in [-1, 1]; gradients flow to `images`."""
        if self.shift:
            images, targets = shifted((images, targets), self.shift)
        with torch.no_grad():
            expected = self.features(targets)
        squares = [(a - b).square() for a, b in zip(self.features(images), expected, strict=True)]
        if self.channel_weights is not None:
            squares = [s * weights for s, weights in zip(squares, self.channel_weights, strict=True)]
        return torch.stack([square.sum(dim=1).mean() for square in squares]).sum()


def learned_weights() -> list[Tensor]:
    """LPIPS' channel weights of each VGG16 layer, (1, C, 1, 1) each. Raises ValueError without torchmetrics."""
    require("the learned weights of lpips", "torchmetrics")
    spec = find_spec("torchmetrics")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{layer}.model.1.weight"] for layer in range(len(DEFAULT_LAYERS["vgg16"]))]


def shifted(batches: tuple[Tensor, ...], most: int) -> tuple[Tensor, ...]:
    """Batches (B, C, H, W) moved by the same random offset of up to `most` pixels each way, edges mirrored."""
    down, right = torch.randint(-most, most + 1, (2,)).tolist()
    margins = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))  # left, right, top, bottom
    height, width = batches[0].shape[-2:]
    top, left = max(-down, 0), max(-right, 0)
    return tuple(mirrored(batch, margins)[..., top : top + height, left : left + width] for batch in batches)


def mirrored(batch: Tensor, margins: tuple[int, int, int, int]) -> Tensor:
    """Wider by (left, right, top, bottom) pixels, mirrored at the edges."""
    if not torch.are_deterministic_algorithms_enabled():
        return nn.functional.pad(batch, margins, mode="reflect")
    left, right, top, bottom = margins  # on CUDA, the gradient of torch's own is not the same every time
    upper, lower = batch[..., 1 : top + 1, :].flip(-2), batch[..., -bottom - 1 : -1, :].flip(-2)
    batch = torch.cat([upper, batch, lower], dim=-2)
    before, behind = batch[..., 1 : left + 1].flip(-1), batch[..., -right - 1 : -1].flip(-1)
    return torch.cat([before, batch, behind], dim=-1)
