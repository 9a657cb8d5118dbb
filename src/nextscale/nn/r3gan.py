"""R3GAN's networks: residual stages from a learned 4 x 4 basis to an image, and their mirror (arXiv 2501.05441).

No normalisation; residual branches begin at zero. All convolutions can be differentiated twice.
Shapes: B batch, Z latent numbers, C channels, (H, W) pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.conditions import Conditions, as_conditions
from nextscale.nn.double_backward import conv2d

BASIS = 4
"""Pixels along each side of the learned basis."""
EXPANSION = 2
"""Channels inside a residual branch for each one outside."""
SLOPE = 0.2
"""Of the leaky relu below 0."""
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""What keeps variances through a leaky relu."""


class Convolution(nn.Module):
    """A convolution without bias whose image keeps its size; at first, weights of variance gain^2 / inputs."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.groups, self.gain = groups, gain
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))

    def initialise(self) -> None:
        """Draw the weights from torch's global generator."""
        scaled_normal(self.weight, self.gain)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, padding=self.weight.shape[-1] // 2, groups=self.groups)


def scaled_normal(weight: Tensor, gain: float = 1.0) -> None:
    """Normal numbers of variance gain^2 / inputs, the product of all dimensions but the first."""
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))


class Residual(nn.Module):
    """x + 1x1(act(3x3 in groups(act(1x1(x))))), act a leaky relu after a learned bias; `depth` branches in a row."""

    def __init__(self, channels: int, group_width: int, depth: int) -> None:
        super().__init__()
        inner, gain = EXPANSION * channels, GAIN * depth**-0.25  # L^(-1 / (2 m - 2)), m = 3 layers (Fixup)
        self.expand = Convolution(channels, inner, gain=gain)
        self.expand_bias = nn.Parameter(torch.empty(inner))
        self.mix = Convolution(inner, inner, 3, groups=inner // group_width, gain=gain)
        self.mix_bias = nn.Parameter(torch.empty(inner))
        self.contract = Convolution(inner, channels, gain=0.0)

    def initialise(self) -> None:
        """Biases begin at 0; the convolutions see to themselves."""
        nn.init.zeros_(self.expand_bias)
        nn.init.zeros_(self.mix_bias)

    def forward(self, x: Tensor) -> Tensor:
        inner = activated(self.expand(x), self.expand_bias)
        return x + self.contract(activated(self.mix(inner), self.mix_bias)).to(x.dtype)


def activated(x: Tensor, bias: Tensor) -> Tensor:
    """Leaky relu of (B, C, H, W) plus a bias (C,)."""
    return F.leaky_relu(x + bias.to(x.dtype)[:, None, None], SLOPE)


@lru_cache(maxsize=64)
def smoothing(side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix (side / 2, side) that halves a side: [1, 2, 1] convolved with [1, 1], over 8, zeros outside."""
    rows = torch.zeros(side // 2, side + 2)
    for row in range(side // 2):
        rows[row, 2 * row : 2 * row + 4] = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return rows[:, 1:-1].to(device, dtype)


def halved(x: Tensor) -> Tensor:
    """(B, C, H, W) smoothed and at half the size."""
    height, width = (smoothing(side, x.device, x.dtype) for side in x.shape[-2:])
    return height @ (x @ width.t())


def doubled(x: Tensor) -> Tensor:
    """(B, C, H, W) interpolated to twice the size: `halved`'s transpose, times 4."""
    height, width = (2 * smoothing(2 * side, x.device, x.dtype) for side in x.shape[-2:])
    return height.t() @ (x @ width)


def between(inputs: int, outputs: int) -> nn.Module:
    """What changes the number of channels from stage to stage, if it changes."""
    return nn.Identity() if inputs == outputs else Convolution(inputs, outputs)


class Stages(nn.Module):
    """What both networks have: stages of residual blocks, what leads from one to the next, and classes."""

    def __init__(self, widths: Sequence[int], *, blocks: int, group_width: int, classes: int) -> None:
        super().__init__()
        depth = blocks * len(widths)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Residual(width, group_width, depth) for _ in range(blocks))) for width in widths
        )
        self.changes = nn.ModuleList(between(*pair) for pair in pairwise(widths))
        self.classes = classes

    def initialise(self) -> None:
        """Draw all weights from torch's global generator."""
        for module in self.modules():
            if isinstance(module, (Convolution, Residual)):
                module.initialise()


class Generator(Stages):
    """Latents (B, Z) and classes to images (B, 3, H, W), which are near [-1, 1] but not bound to it."""

    def __init__(self, widths: Sequence[int], *, latent: int, blocks: int, group_width: int, classes: int) -> None:
        """`widths` are the channels of each stage, from 4 x 4 on."""
        super().__init__(widths, blocks=blocks, group_width=group_width, classes=classes)
        self.class_embedding = nn.Embedding(classes + 1, latent) if classes else None
        self.basis = nn.Parameter(torch.empty(widths[0], BASIS, BASIS))
        self.basis_scale = nn.Linear(2 * latent if classes else latent, widths[0], bias=False)
        self.to_image = Convolution(widths[-1], 3)

    def initialise(self) -> None:
        super().initialise()
        nn.init.normal_(self.basis)
        scaled_normal(self.basis_scale.weight)
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, std=self.classes**-0.5)

    def forward(self, latents: Tensor, classes: Tensor | Conditions) -> Tensor:
        given = latents.to(self.basis.dtype)
        if self.class_embedding is not None:
            given = torch.cat([given, as_conditions(classes, self.classes).vectors(self)], dim=1)
        x = self.basis_scale(given)[:, :, None, None] * self.basis
        x = self.stages[0](x)
        for change, stage in zip(self.changes, self.stages[1:], strict=True):
            x = stage(doubled(change(x)))
        return self.to_image(x)


class Discriminator(Stages):
    """Images (B, 3, H, W) and class ids (B,) to scores (B,) float32; higher is more real."""

    def __init__(self, widths: Sequence[int], *, blocks: int, group_width: int, classes: int) -> None:
        """`widths` are the channels of each stage, down to 4 x 4."""
        super().__init__(widths, blocks=blocks, group_width=group_width, classes=classes)
        last = widths[-1]
        self.from_image = Convolution(3, widths[0])
        self.basis = nn.Parameter(torch.empty(last, BASIS, BASIS))
        self.head = nn.Linear(last, last if classes else 1, bias=False)
        self.class_embedding = nn.Embedding(classes + 1, last) if classes else None

    def initialise(self) -> None:
        super().initialise()
        scaled_normal(self.basis)
        scaled_normal(self.head.weight)
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, std=(self.classes * self.head.out_features) ** -0.5)

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        x = self.stages[0](self.from_image(images))
        for change, stage in zip(self.changes, self.stages[1:], strict=True):
            x = stage(change(halved(x)))
        with torch.autocast(x.device.type, enabled=False):
            seen = self.head((x.to(self.basis.dtype) * self.basis).sum(dim=(2, 3)))
            if self.class_embedding is None:
                return seen[:, 0]
            return (seen * self.class_embedding(classes)).sum(dim=1)
