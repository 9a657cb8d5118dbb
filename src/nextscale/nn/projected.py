"""The projected discriminator (arXiv 2111.01007): small heads on random mixtures of a frozen network's features.

Shapes: B batch, C channels, (H, W) pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from nextscale.nn.perceptual import imagenet_normalised
from nextscale.nn.style import Dense, Table

STRIDES = (4, 8, 16, 32)
"""Of the four features, relative to the image that the network sees."""
WIDTH = 64
"""Channels of the random mixture of the finest; each coarser one has twice as many as the one before."""
HEAD_WIDTHS = {64: 1, 32: 2, 16: 4, 8: 8}
"""Channels of a head's maps, times that, by their side where the network sees an image of 256 pixels."""
SMALLEST = 128
"""Pixels of a side that the network needs to see, so that the heads' last convolutions have room."""
PROBE = 256
"""Pixels of a side of the image that finds the features' places."""


def strided_layers(network: nn.Module) -> dict[int, tuple[str, int]]:
    """The last layer of each stride, and its channels: (name, C) by stride. Raises ValueError where one is missing."""
    found: dict[int, tuple[str, int]] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
                stride, rest = divmod(PROBE, output.shape[2])
                if not rest:
                    found[stride] = (name, output.shape[1])

        return module.register_forward_hook(note)

    hooks = [watch(name, module) for name, module in network.named_modules() if name and name.count(".") < 2]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, PROBE, PROBE))
    except AssertionError as error:  # torchvision's ViTs take images of one size alone
        raise ValueError(f"a projected discriminator cannot read this backbone ({error}); take mobilenet_v2") from error
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [str(stride) for stride in STRIDES if stride not in found]:
        raise ValueError(
            f"a projected discriminator reads maps at strides 4, 8, 16 and 32, and this backbone has none at "
            f"{', '.join(missing)}; take another, such as mobilenet_v2, resnet50 or efficientnet_b0"
        )
    return {stride: found[stride] for stride in STRIDES}


class Projector(nn.Module):
    """Four features of a frozen network, mixed at random across channels and then from coarse to fine.

    Nothing in it is ever trained: it has no gradients of its own, and training mode does not reach it.
    """

    def __init__(self, network: nn.Module, *, resize: int = 224, width: int = WIDTH) -> None:
        """`network` is a torchvision classifier, which sees images of `resize` pixels."""
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        layers = strided_layers(network)
        names, channels = zip(*layers.values(), strict=True)
        self.resize, self.features = resize, channels[-1]
        self.backbone = create_feature_extractor(network, list(names))
        mixed = width, 2 * width, 4 * width, 8 * width
        self.across_channels = nn.ModuleList(nn.Conv2d(n, m, 1) for n, m in zip(channels, mixed, strict=True))
        self.outputs = (width, *mixed[:-1])
        self.across_scales = nn.ModuleList(nn.Conv2d(n, m, 1) for n, m in zip(mixed, self.outputs, strict=True))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Projector:
        """It always stays in evaluation mode."""
        return super().train(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The network's own features of images (B, 3, H, W) in [-1, 1], fine to coarse."""
        images = F.interpolate(images, size=(self.resize, self.resize), mode="bilinear", align_corners=False)
        seen = imagenet_normalised(images).contiguous(memory_format=torch.channels_last)
        return list(self.backbone(seen).values())

    def pooled(self, images: Tensor) -> Tensor:
        """The mean of the coarsest features, (B, C): what class vectors are averages of."""
        return self.maps(images)[-1].mean(dim=(2, 3))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] -> four maps, fine to coarse, of twice their features' sides."""
        mixed = [layer(x) for layer, x in zip(self.across_channels, self.maps(images), strict=True)]
        outputs: list[Tensor] = []
        for layer, x in zip(reversed(self.across_scales), reversed(mixed), strict=True):
            x = x + outputs[-1] if outputs else x
            outputs.append(layer(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)))
        return outputs[::-1]


class Head(nn.Module):
    """Strided convolutions under spectral normalisation, down to scores of places."""

    def __init__(self, channels: int, side: int, features: int, *, width: int = WIDTH) -> None:
        """Maps have `channels` and, of an image of 256 pixels, this `side`; `features` are a class vector's, or 0."""
        super().__init__()
        layers: list[nn.Module] = []
        while side > 8:
            side //= 2
            wider = HEAD_WIDTHS[side] * width
            convolution = spectral_norm(nn.Conv2d(channels, wider, 4, stride=2, padding=1))
            channels = wider
            layers += [convolution, nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.last = spectral_norm(nn.Conv2d(channels, width if features else 1, 4, bias=False))
        self.embed = Dense(features, width, active=True) if features else None

    def forward(self, x: Tensor, class_vectors: Tensor | None) -> Tensor:
        """Maps (B, C, h, w) and class vectors (B, D) -> scores (B, places) float32."""
        x = self.last(self.body(x)).float()
        if self.embed is not None:
            assert class_vectors is not None
            x = (x * self.embed(class_vectors)[:, :, None, None]).sum(dim=1) / math.sqrt(x.shape[1])
        return x.flatten(1)


class ProjectedDiscriminator(nn.Module):
    """A projector and a head for each of its maps."""

    def __init__(
        self, network: nn.Module, class_vectors: Tensor | None, *, resize: int = 224, width: int = WIDTH
    ) -> None:
        """`network` is a torchvision classifier with its weights; `class_vectors` (classes + 1, D) stay as they are.

        Raises ValueError for a network without the strides.
        """
        super().__init__()
        if resize < SMALLEST or resize % STRIDES[-1]:
            raise ValueError(
                f"a projected discriminator sees images of {SMALLEST} pixels or more, a multiple of {STRIDES[-1]}, not "
                f"{resize}; resize them"
            )
        self.projector = Projector(network, resize=resize, width=width)
        self.class_embedding = None if class_vectors is None else Table(class_vectors.detach().float().clone())
        features = 0 if class_vectors is None else class_vectors.shape[1]
        self.heads = nn.ModuleList(
            Head(channels, 2 * PROBE // stride, features, width=width)
            for channels, stride in zip(self.projector.outputs, STRIDES, strict=True)
        )

    def forward(self, images: Tensor, classes: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] of classes (B,) -> each head's scores of places, (B, places) float32."""
        vectors = None if self.class_embedding is None else self.class_embedding(classes)
        return [head(x, vectors) for head, x in zip(self.heads, self.projector(images), strict=True)]


def hinge_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """The discriminator's loss, summed over heads."""
    return torch.stack([F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in zip(real, fake, strict=True)]).sum()


def adversarial_loss(fake: Sequence[Tensor]) -> Tensor:
    """The generator's loss, summed over heads."""
    return -torch.stack([scores.mean() for scores in fake]).sum()


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images (B, C, H, W) under a Gaussian of `sigma` pixels, zeros around them; below a third of a pixel they stay.

    The Gaussian falls off as 2^-(x / sigma)^2, as in the published code.
    """
    reach = math.floor(3 * sigma)
    if reach < 1:
        return images
    weights = torch.exp2(-(torch.arange(-reach, reach + 1, device=images.device) / sigma).square())
    weights = weights.to(images.dtype) / weights.sum()
    channels = images.shape[1]
    for shape, padding in (((-1, 1), (reach, 0)), ((1, -1), (0, reach))):
        kernel = weights.view(1, 1, *shape).expand(channels, -1, -1, -1)
        images = F.conv2d(images, kernel, padding=padding, groups=channels)
    return images
