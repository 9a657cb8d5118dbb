"""The style-based generator of StyleGAN3-T (arXiv 2106.12423) as StyleGAN-XL (arXiv 2202.00273) grows it.

Shapes: B batch, Z latent, S style, D class features, C channels, (H, W) samples of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.conditions import Conditions, as_conditions
from nextscale.nn.alias_free import Resampling, Signal, filtered_leaky_relu, full_precision

STYLE_DECAY = 0.998
"""Of the running average of styles, for each image."""
IMAGE_SCALE = 0.25
"""What the last layer's outputs are multiplied by."""


def normalised(vectors: Tensor) -> Tensor:
    """Vectors (B, N) with a mean square of 1."""
    return vectors * (vectors.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Dense(nn.Module):
    """A linear layer in float32 whose weights are scaled when it runs, so that all layers learn equally fast.

    Its learning rate is `rate` times the optimiser's (StyleGAN, arXiv 1812.04948, appendix C).
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, active: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate, self.active = rate, active

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs) float32; `active` layers end with a leaky ReLU of gain sqrt(2)."""
        gain = self.rate / math.sqrt(self.weight.shape[1])
        with full_precision(x):
            x = F.linear(x.float(), self.weight.float() * gain, self.bias.float() * self.rate)
            return F.leaky_relu(x, 0.2) * math.sqrt(2) if self.active else x


class Table(nn.Module):
    """A vector for each class and one for no class, which no optimiser changes."""

    weight: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", vectors)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B,) -> (B, N)."""
        return self.weight[ids]


class AverageStyles(nn.Module):
    """Running averages of the styles of each class, or of all where there are none."""

    def __init__(self, classes: int, style: int) -> None:
        super().__init__()
        self.class_embedding = Table(torch.zeros(classes + 1, style))
        self.classes = classes

    def forward(self, conditions: Conditions) -> Tensor:
        """The averages of B conditions, (B, S) float32."""
        return conditions.vectors(self).float()

    @torch.no_grad()
    def take_in(self, styles: Tensor, classes: Tensor) -> None:
        """Move each class's average towards the mean of its styles, by as much as one style after the other would."""
        averages = self.class_embedding.weight
        counts = torch.zeros(len(averages), 1, device=styles.device).index_add_(
            0, classes, torch.ones_like(styles[:, :1])
        )
        means = torch.zeros_like(averages).index_add_(0, classes, styles) / counts.clamp_min(1)
        averages.copy_(means.lerp(averages, STYLE_DECAY**counts))


class Mapping(nn.Module):
    """Latents and classes -> styles."""

    def __init__(self, latent: int, style: int, classes: int, features: int) -> None:
        """A class's vector has `features` numbers; the vectors begin random, until training images give them."""
        super().__init__()
        self.class_embedding = Table(torch.randn(classes + 1, features)) if classes else None
        self.embed = Dense(features, latent, active=True) if classes else None
        width = 2 * latent if classes else latent
        self.layers = nn.Sequential(*(Dense(n, style, rate=0.01, active=True) for n in (width, style)))

    def forward(self, latents: Tensor, conditions: Conditions) -> Tensor:
        """Latents (B, Z) and B conditions -> styles (B, S) float32."""
        x = normalised(latents.float())
        if self.embed is not None:
            x = torch.cat([x, normalised(self.embed(conditions.vectors(self)))], dim=1)
        return self.layers(x)


class FourierInput(nn.Module):
    """Sine waves below the first cutoff, turned and moved as the style says, and mixed (StyleGAN3, section 3)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, signal: Signal, style: int) -> None:
        super().__init__()
        self.signal = signal
        directions = torch.randn(signal.channels, 2)  # uniform in a disc with a soft edge
        radii = directions.square().sum(dim=1, keepdim=True).sqrt()
        self.register_buffer("frequencies", directions / (radii * radii.square().exp().pow(0.25)) * signal.cutoff)
        self.register_buffer("phases", torch.rand(signal.channels) - 0.5)
        self.weight = nn.Parameter(torch.randn(signal.channels, signal.channels))
        self.affine = Dense(style, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias[0] = 1.0

    def forward(self, styles: Tensor, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """(B, S) -> (B, C, H, W) float32; the image moves by `shift` (right, down), in its sides."""
        with full_precision(styles):
            turn_x, turn_y, move_x, move_y = self.affine(styles).unbind(dim=1)
            length = (turn_x.square() + turn_y.square()).sqrt()
            cosine, sine, move_x, move_y = (value / length for value in (turn_x, turn_y, move_x, move_y))
            x, y = self.frequencies.float().unbind(dim=1)
            turned_x = cosine[:, None] * x + sine[:, None] * y  # (B, C): a rotation from the right
            turned_y = cosine[:, None] * y - sine[:, None] * x
            moved_x, moved_y = move_x[:, None] + shift[0], move_y[:, None] + shift[1]
            phases = self.phases.float() - turned_x * moved_x - turned_y * moved_y
            # Above the cutoff there is nothing but what a transformation brings there; it fades out.
            band = self.signal.rate / 2 - self.signal.cutoff
            lengths = (turned_x.square() + turned_y.square()).sqrt()
            strength = (1 - (lengths - self.signal.cutoff) / band).clamp(0, 1)
            places = torch.arange(self.signal.size, device=styles.device) + 0.5 - self.signal.size / 2
            places = places / self.signal.rate  # of samples, in image sides from the middle
            angles = turned_x[:, None, None] * places[:, None] + turned_y[:, None, None] * places[:, None, None]
            waves = (2 * math.pi * (angles + phases[:, None, None])).sin() * strength[:, None, None]  # (B, H, W, C)
            mixed = waves @ (self.weight.float().t() / math.sqrt(self.signal.channels))
            return mixed.permute(0, 3, 1, 2)  # channels-last in memory


def modulated_conv(
    x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, *, gain: Tensor | float = 1.0, demodulate: bool = True
) -> Tensor:
    """Convolution with weights whose input channels are scaled by each image's style, padded by kernel - 1.

    (B, C, H, W), (O, C, k, k), (B, C), (O,) -> (B, O, H + k - 1, W + k - 1) float32. `demodulate` gives the weights of
    each output channel a norm of 1 (StyleGAN2, arXiv 1912.04958, eq. 1-3); `gain` multiplies x. All of it scales
    channels before and after one convolution for all images, which is the same as other weights for each image, and
    faster.
    """
    with full_precision(x):
        scales = torch.ones((), device=x.device)
        if demodulate:
            weight = weight.float() * weight.float().square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
            styles = normalised(styles)
            scales = (styles.square() @ weight.square().sum(dim=(2, 3)).t() + 1e-8).rsqrt()[:, :, None, None]
        x = x * (styles * gain)[:, :, None, None]
    x = F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] - 1)
    return torch.addcmul(bias.float()[:, None, None], x.float(), scales)


class StyleLayer(nn.Module):
    """Modulated convolution and an alias-free leaky ReLU, or the last layer, which makes colours of channels."""

    magnitude: Tensor

    def __init__(self, before: Signal, after: Signal, style: int, *, colours: bool = False) -> None:
        super().__init__()
        self.colours = colours
        kernel = 1 if colours else 3
        self.resampling = Resampling(before, after, kernel)
        self.affine = Dense(style, before.channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(after.channels, before.channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude", torch.ones(()))

    def forward(self, x: Tensor, styles: Tensor, *, track: float = 0.0) -> Tensor:
        """(B, C, H, W) and (B, S) -> (B, C, H, W) float32; `track` moves the running magnitude by that share to x's."""
        if track:
            self.take_in(x.detach(), track)
        scales = self.affine(styles)
        if self.colours:
            scales = scales / math.sqrt(self.weight.shape[1])
        gain = self.magnitude.float().rsqrt()
        x = modulated_conv(x, self.weight, scales, self.bias, gain=gain, demodulate=not self.colours)
        return x if self.colours else filtered_leaky_relu(x, self.resampling)

    @torch.no_grad()
    def take_in(self, x: Tensor, share: float) -> None:
        """Move the running mean square of inputs towards that of x."""
        self.magnitude.lerp_(x.float().square().mean().to(self.magnitude.dtype), share)


class Synthesis(nn.Module):
    """Styles -> images, layer by layer."""

    def __init__(self, signals: Sequence[Signal], style: int, *, frozen: int = 0) -> None:
        """`signals` are those of the layers; the input and the first `frozen` layers are never trained, nor tracked."""
        super().__init__()
        self.frozen = frozen
        self.input = FourierInput(signals[0], style)
        before = [signals[0], *signals[:-1]]
        last = len(signals) - 1
        self.layers = nn.ModuleList(
            StyleLayer(one, after, style, colours=number == last)
            for number, (one, after) in enumerate(zip(before, signals, strict=True))
        )
        for module in [self.input, *self.layers][: frozen + 1] if frozen else []:
            module.requires_grad_(False)

    def forward(self, styles: Tensor, *, track: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """(B, S) -> images (B, 3, H, W) float32, about in [-1, 1].

        `track` moves the layers' running magnitudes, which only the discriminator's turn may do: in the generator's own
        they collapse. `shift` as in `FourierInput`.
        """
        x = self.input(styles, shift)
        for number, layer in enumerate(self.layers):
            x = layer(x, styles, track=track if number >= self.frozen else 0.0)
        return x * IMAGE_SCALE


class StyleGenerator(nn.Module):
    """Mapping and synthesis; a generator that was grown trains its newest layers alone."""

    def __init__(
        self, signals: Sequence[Signal], *, latent: int, style: int, classes: int, features: int, frozen: int = 0
    ) -> None:
        super().__init__()
        self.mapping = Mapping(latent, style, classes, features)
        self.averages = AverageStyles(classes, style)
        self.synthesis = Synthesis(signals, style, frozen=frozen)
        self.mapping.requires_grad_(not frozen)

    def forward(self, latents: Tensor, conditions: Conditions, *, truncation: float = 1.0) -> Tensor:
        """Images (B, 3, H, W) float32; styles go from their class's average (0) to what they are (1)."""
        styles = self.mapping(latents, conditions)
        if truncation != 1:
            styles = torch.lerp(self.averages(conditions), styles, truncation)
        return self.synthesis(styles)

    @torch.no_grad()
    def tracked(self, latents: Tensor, classes: Tensor, share: float) -> Tensor:
        """Images of class ids (B,) whose styles and magnitudes the running averages take in, these by `share`.

        Only for the discriminator's turn: in the generator's own, magnitudes collapse.
        """
        styles = self.mapping(latents, as_conditions(classes, self.averages.classes))
        if not self.synthesis.frozen:
            self.averages.take_in(styles, classes)
        return self.synthesis(styles, track=share)
