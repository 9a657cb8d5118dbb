"""StyleGAN2's discriminator with its losses and penalty, as ViT-VQGAN trains against it.

Residual and with equalised learning rates (arXiv 1912.04958, configuration F), without custom kernels; R1 is from
arXiv 1801.04406. Shapes: B batch, C channels, (H, W) pixels.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn.double_backward import gradient_penalties
from nextscale.pyramid import Size

MOST_CHANNELS = 512
GROUP = 4
"""Images whose deviation from each other the last layers see, at most."""


class EqualConv(nn.Module):
    """Convolution whose weights are all drawn with deviation 1 and scaled when used, so that all learn at one rate."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, **options)


def activated(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the size of what it is given."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def blurred(x: Tensor, padding: int, *, stride: int = 1) -> Tensor:
    """The filter 1, 3, 3, 1 along both sides, (B, C, H, W) -> (B, C, H + 2 padding - 3, ...), every `stride`-th pixel.

    That is the mean of two neighbours, three times.
    """
    x = F.avg_pool2d(F.avg_pool2d(F.pad(x, [padding] * 4), 2, stride=1), 2, stride=1)
    return F.avg_pool2d(x, 2, stride=stride)


class ResidualLevel(nn.Module):
    """Two convolutions beside a linear path, each of which halves the resolution after a blur."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = EqualConv(inputs, inputs, 3)
        self.conv2 = EqualConv(inputs, outputs, 3)
        self.skip = EqualConv(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = activated(self.conv1(x, padding=1))
        hidden = activated(self.conv2(blurred(hidden, 2), stride=2))
        return (hidden + self.skip(blurred(x, 1, stride=2))) / math.sqrt(2)


class StyleDiscriminator(nn.Module):
    """Levels down to 4 pixels, then all of the map at once: (B, 3, H, W) -> (B, 1). Sides are 4 times powers of two.

    It sees how much images of a batch differ, so a batch must be of one kind: real images, or made ones.
    Raises ValueError for images that cannot be halved so far.
    """

    def __init__(self, channels: int, size: Size) -> None:
        super().__init__()
        height, width = size
        levels = max(0, int(math.log2(max(1, min(size) // 4))))
        if min(size) < 4 or height % 2**levels or width % 2**levels:
            raise ValueError(f"discriminator stylegan2 halves images down to 4 pixels, and {height}x{width} cannot be")
        widths = [min(channels * 2**level, MOST_CHANNELS) for level in range(levels + 1)]
        self.first = EqualConv(3, widths[0], 1)
        self.levels = nn.Sequential(*(ResidualLevel(a, b) for a, b in pairwise(widths)))
        self.conv = EqualConv(widths[-1] + 1, widths[-1], 3)
        rest = height * width // 4**levels
        self.linear = EqualConv(widths[-1] * rest, widths[-1], 1)  # a convolution of one position
        self.score = EqualConv(widths[-1], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.levels(activated(self.first(images)))
        hidden = activated(self.conv(torch.cat([hidden, batch_deviation(hidden)], dim=1), padding=1))
        hidden = activated(self.linear(hidden.flatten(1)[:, :, None, None]))
        return self.score(hidden).flatten(1)


def batch_deviation(x: Tensor) -> Tensor:
    """How much the images of a group differ, one number a group: (B, C, H, W) -> (B, 1, H, W).

    A group has four images, or as many below that as divide the batch.
    """
    batch, _, height, width = x.shape
    group = next(size for size in range(GROUP, 0, -1) if batch % size == 0)
    apart = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(0, (group, -1))  # (group, B / group, C, H, W)
    deviation = (apart.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return deviation.repeat(group).to(x.dtype)[:, None, None, None].expand(-1, 1, height, width)


def logistic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss of scores of real images and of made ones, scalar."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def non_saturating_loss(fake: Tensor) -> Tensor:
    """The generator's loss of the scores of what it made, scalar."""
    return F.softplus(-fake.float()).mean()


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """R1 without its weight: half the mean over images of the squared gradient of an image's score, scalar.

    `images` (B, 3, H, W) require gradients, and `scores` (B, ...) are of them. It can be differentiated itself.
    """
    return gradient_penalties(scores, images).mean() / 2
