"""Features of images: the vector that the last layer of a classifier sees, and the logits.

Shapes: B batch, N images, D features, C classes of the classifier.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextscale.errors import require
from nextscale.files import complete_file
from nextscale.nn.perceptual import imagenet_normalised, load_backbone
from nextscale.pictures import to_uint8

HEADS = ("classifier", "fc", "head", "heads")
"""Names of the last layers of torchvision's classifiers."""
INCEPTION = "inception"
"""The Inception V3 of 2015 that FID is defined with, from torch-fidelity."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of N images."""

    pooled: Tensor  # (N, D) float32
    logits: Tensor  # (N, C) float32
    labels: Tensor  # (N,) int64, NO_CLASS without classes

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, index: Any) -> FeatureSet:
        return FeatureSet(self.pooled[index], self.logits[index], self.labels[index])

    @classmethod
    def joined(cls, parts: Iterable[FeatureSet]) -> FeatureSet:
        """Several sets as one."""
        columns = zip(*((part.pooled, part.logits, part.labels) for part in parts), strict=True)
        return cls(*map(torch.cat, columns))

    def save(self, path: Path) -> None:
        """Write a safetensors file; it appears when complete."""
        from safetensors.torch import save_file

        with complete_file(path) as partial:
            save_file({name: tensor.contiguous() for name, tensor in vars(self).items()}, partial)

    @classmethod
    def load(cls, path: Path) -> FeatureSet:
        """Read such a file. Raises ValueError for a damaged one."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise ValueError(f"{path}: not a readable file of features ({error}); delete it") from error


class FeatureNetwork(nn.Module):
    """A torchvision classifier; images keep their size."""

    def __init__(self, backbone: str = "mobilenet_v2", *, weights: str | Path = "") -> None:
        """`weights` is the file of a state dict, of any number of classes; without it, torchvision's of ImageNet.

        Raises ValueError.
        """
        super().__init__()
        self.name = backbone
        self.network = load_backbone(backbone, weights).requires_grad_(False)
        place = next((name for name in HEADS if hasattr(self.network, name)), None)
        if place is None:
            raise ValueError(f"backbone {backbone}: has none of the heads {', '.join(HEADS)}; choose another")
        self.last_layers: nn.Module = getattr(self.network, place)
        setattr(self.network, place, nn.Identity())
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, D) float32."""
        return self.seen(images).flatten(1).float()

    @torch.no_grad()
    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> features (B, D) and logits (B, C), float32."""
        seen = self.seen(images)
        return seen.flatten(1).float(), self.last_layers(seen).float()

    def seen(self, images: Tensor) -> Tensor:
        """What the last layer sees."""
        return self.network(imagenet_normalised(images.float()).contiguous(memory_format=torch.channels_last))

    def extract(self, batches: Iterable[Tensor]) -> Tensor:
        """Features of batches of images in [-1, 1], (N, D) float32 on the CPU."""
        device = next(self.network.parameters()).device
        return torch.cat([self(images.to(device)).cpu() for images in batches])


class InceptionNetwork(nn.Module):
    """Inception V3 as torch-fidelity converted it: 2,048 features, and logits without their bias, as IS takes them.

    Images are resized to 299 x 299 as TensorFlow 1 resized them.
    """

    def __init__(self, *, weights: str | Path = "") -> None:
        """`weights` is torch-fidelity's file; without it, it is fetched. Raises ValueError."""
        super().__init__()
        require("the network inception", "torch_fidelity")
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.name = INCEPTION
        path = str(weights or fetched_inception())
        refuse_code(path)  # torch-fidelity itself would unpickle anything
        try:
            self.network = FeatureExtractorInceptionV3(INCEPTION, ["2048", "logits_unbiased"], path)
        except RuntimeError as error:
            raise ValueError(f"{path}: not torch-fidelity's Inception ({str(error).splitlines()[0]})") from error

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 2048) float32."""
        return self.outputs(images)[0]

    @torch.no_grad()
    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> features (B, 2048) and logits (B, 1008), float32."""
        return self.network(to_uint8(images))


Network = FeatureNetwork | InceptionNetwork


def fetched_inception() -> str:
    """Path of torch-fidelity's weights in $TORCH_HOME/hub/checkpoints; fetched if missing. Raises ValueError."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), progress=False)
        except OSError as error:
            raise ValueError(
                f"Inception's weights could not be fetched ({error}); give the file of {URL_INCEPTION_V3} "
                "with --feature-weights"
            ) from error
    return str(path)


def refuse_code(path: str) -> None:
    """Raises ValueError unless a file holds tensors and no code."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path}: not a file of weights ({str(error).splitlines()[0]})") from error


def load_features(name: str, weights: str | Path = "") -> Network:
    """The network `inception`, or a torchvision classifier by name. Raises ValueError."""
    return InceptionNetwork(weights=weights) if name == INCEPTION else FeatureNetwork(name, weights=weights)


@torch.no_grad()
def features_of(network: Network, images: Tensor, labels: Tensor) -> FeatureSet:
    """Features, on the CPU, of images (B, 3, H, W) in [-1, 1] with labels (B,)."""
    pooled, logits = network.outputs(images.to(next(network.parameters()).device))
    return FeatureSet(pooled.cpu(), logits.cpu(), labels)


def feature_size(network: Network, size: tuple[int, int]) -> int:
    """Number of features that a network gives for images of this height and width, found by trying one."""
    device = next(network.parameters()).device
    return network(torch.zeros(1, 3, *size, device=device)).shape[1]


def identity(network: nn.Module) -> str:
    """SHA-256 of a network's weights: features of networks with another one do not compare.

    It is the same on every device: weights that the CPU has packed count as what they were packed from. Raises
    ValueError for weights that are NaN, from which images and figures could still be made.
    """
    digest = hashlib.sha256()
    for part, module in sorted(network.named_modules()):
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        packed = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
        own += [("weight" if name == "packed" else name, value) for name, value in packed.items()]
        for name, tensor in sorted(own, key=lambda pair: pair[0]):
            digest.update(f"{part}.{name}".encode())
            plain = tensor.to_dense() if tensor.layout != torch.strided else tensor
            values = plain.detach().cpu().contiguous().float().numpy()
            if np.isnan(values).any():
                raise ValueError(f"the weights {part}.{name} hold values that are not numbers: the file is damaged")
            digest.update(values.tobytes())
    return digest.hexdigest()
