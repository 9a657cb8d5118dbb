"""The style-based generator: its maths against slow forms, and that it moves with what it draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from nextscale.conditions import ClassLabels
from nextscale.nn.alias_free import grown, progression
from nextscale.nn.style import Dense, StyleGenerator, StyleLayer, Synthesis, modulated_conv

CHANNELS = (512, 16)
STEM = progression(16, 7, channels=CHANNELS)


def decibels(made: torch.Tensor, expected: torch.Tensor) -> float:
    """Peak signal-to-noise ratio, the peak being the expected range."""
    return float(20 * torch.log10((expected.max() - expected.min()) / (made - expected).square().mean().sqrt()))


def moved(images: torch.Tensor, right: float, down: float, reach: int) -> torch.Tensor:
    """Band-limited images moved by a fraction of a pixel; `reach` pixels at the edges are lost."""
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    for shift, dim in ((down, 2), (right, 3)):
        offset = places - shift
        window = torch.special.i0(6 * (1 - (offset / (reach + 1)).square()).sqrt())
        weights = torch.sinc(offset) * window
        kernel = (weights / weights.sum()).float().flip(0).view(1, 1, *((-1, 1) if dim == 2 else (1, -1)))
        images = F.conv2d(images, kernel.expand(images.shape[1], -1, -1, -1), groups=images.shape[1])
    return images


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulation_is_other_weights_for_each_image(demodulate: bool) -> None:
    torch.manual_seed(0)
    x, weight, styles = torch.randn(3, 4, 6, 5), torch.randn(7, 4, 3, 3), torch.randn(3, 4) + 1
    bias = torch.randn(7)
    made = modulated_conv(x, weight, styles, bias, gain=0.5, demodulate=demodulate)
    for image in range(3):
        own = weight * styles[image, None, :, None, None]
        if demodulate:
            own = own / own.flatten(1).norm(dim=1)[:, None, None, None]
        assert torch.allclose(made[image], F.conv2d(x[image : image + 1] / 2, own, bias, padding=2)[0], atol=1e-4)
    alone = modulated_conv(x[:1], weight, styles[:1], bias, gain=0.5, demodulate=demodulate)
    assert torch.allclose(alone, made[:1], atol=1e-5), "an image does not depend on its batch"


def test_slow_layers_compute_the_same_and_learn_slowly() -> None:
    torch.manual_seed(0)
    layer = Dense(4, 3, rate=0.01, bias=1.0)
    assert layer(torch.zeros(1, 4)).tolist() == [[1, 1, 1]]
    before = layer(torch.ones(1, 4)).detach()
    layer(torch.ones(1, 4)).sum().backward()
    torch.optim.Adam(layer.parameters(), lr=0.1, maximize=True).step()  # by 0.1 for each weight and the bias
    assert torch.allclose(layer(torch.ones(1, 4)) - before, torch.tensor(0.1 * 0.01 * (4 / 2 + 1)), atol=1e-6)


def test_styles_are_tracked_by_class_and_truncated_towards_their_average() -> None:
    torch.manual_seed(0)
    generator = StyleGenerator(STEM, latent=8, style=6, classes=3, features=5)
    latents, classes = torch.randn(4, 8), ClassLabels(torch.tensor([2, 0, 2, 2]), 3)
    styles, averages = generator.mapping(latents, classes).detach(), generator.averages
    generator.tracked(latents, classes.ids, share=0.1)
    assert torch.allclose(averages.class_embedding.weight[0], styles[1] * 0.002, rtol=1e-4)
    assert torch.allclose(averages.class_embedding.weight[2], styles[[0, 2, 3]].mean(0) * (1 - 0.998**3), rtol=1e-4)
    assert not averages.class_embedding.weight[[1, 3]].any()
    with torch.no_grad():
        made = [generator(latents, classes, truncation=truncation) for truncation in (0.0, 0.5, 1.0)]
    assert torch.equal(made[2], generator.synthesis(styles))
    assert torch.equal(made[0], generator.synthesis(averages(classes)))
    assert torch.equal(made[1], generator.synthesis((styles + averages(classes)) / 2))


def test_latents_and_classes_are_normalised() -> None:
    torch.manual_seed(0)
    generator = StyleGenerator(STEM, latent=8, style=6, classes=0, features=0)
    latents, nothing = torch.randn(4, 8), ClassLabels(torch.zeros(4, dtype=torch.int64), 0)
    styles = generator.mapping(latents, nothing)
    assert torch.allclose(generator.mapping(3 * latents, nothing), styles, atol=1e-5)
    generator.tracked(latents, nothing.ids, share=0.1)
    assert torch.allclose(generator.averages(nothing)[0], styles.mean(dim=0) * (1 - 0.998**4), rtol=1e-4)


def test_a_layer_moves_with_its_input() -> None:
    """Of a signal of the layer's own band, a shift of the input is a shift of the output, by fractions too."""
    torch.manual_seed(0)
    layer = StyleLayer(STEM[3], STEM[4], style=8)
    waves = torch.randn(3, 16, 1, 1) * 0.5

    def signal(right: float, down: float) -> torch.Tensor:
        places = (torch.arange(36) + 0.5 - 18) / 16
        x, y = places[None, :] - right / 16, places[:, None] - down / 16
        angles = [2 * math.pi * (a * x + b * y) for a, b in ((1, 2), (-2, 1), (3, 0))]
        return (waves * torch.stack(angles)[:, None].add(0.3).sin()).sum(dim=0)[None]

    with torch.no_grad():
        styles = torch.randn(1, 8)
        still = layer(signal(0, 0), styles)
        whole, part = layer(signal(2, -1), styles), layer(signal(0.5, 0.25), styles)
    inner = (..., slice(11, -11), slice(11, -11))
    assert decibels(whole[inner], still.roll((-1, 2), dims=(2, 3))[inner]) > 50
    assert decibels(part[..., 11:-11, 11:-11], moved(still, 0.5, 0.25, 11)) > 50


def test_a_generator_moves_with_its_input() -> None:
    """As EQ-T of StyleGAN3, on a grown generator as it is initialised; the paper's, trained, reach 60 dB and more."""
    torch.manual_seed(0)
    signals, _ = grown(STEM, 32, 4, channels=CHANNELS)
    generator = Synthesis(signals, style=8)
    with torch.no_grad():
        styles = torch.randn(2, 8)
        for _ in range(4):
            generator(styles, track=0.9)
        still = generator(styles)
        whole, part = generator(styles, shift=(2 / 32, -3 / 32)), generator(styles, shift=(0.25 / 32, 0.5 / 32))
    assert still.shape == (2, 3, 32, 32)
    inner = (..., slice(6, -6), slice(6, -6))
    assert decibels(whole[inner], still.roll((-3, 2), dims=(2, 3))[inner]) > 50
    assert decibels(part[..., 10:-10, 10:-10], moved(still, 0.25, 0.5, 10)) > 50


def test_growth_leaves_earlier_layers_as_they_were() -> None:
    """Their outputs are the same before growth, after it, and after a step of training in which the new ones learn."""
    torch.manual_seed(0)
    small = Synthesis(STEM, style=8)
    signals, kept = grown(STEM, 64, 4, channels=CHANNELS)
    large = Synthesis(signals, style=8, frozen=kept)
    stem = {name: value for name, value in small.state_dict().items() if layer_number(name) < kept}
    assert not large.load_state_dict(stem, strict=False).unexpected_keys
    styles, seen = torch.randn(2, 8), []
    for generator in (small, large):
        generator.layers[kept - 1].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    with torch.no_grad():
        small(styles)
    trained = [parameter for parameter in large.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=0.1)
    first = large(styles, track=0.5)
    first.square().mean().backward()
    optimiser.step()
    assert not torch.equal(large(styles), first)
    assert len(seen) == 3 and torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    assert all(layer.magnitude == 1 for layer in large.layers[:kept]) and large.layers[-1].magnitude != 1


def layer_number(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("layers.") else -1


def test_magnitudes_change_only_where_asked() -> None:
    torch.manual_seed(0)
    generator = Synthesis(STEM, style=8).train()
    before = {name: value.clone() for name, value in generator.named_buffers()}
    generator(torch.randn(2, 8)).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in generator.named_buffers())
    generator(torch.randn(2, 8), track=0.5)
    changed = {name for name, value in generator.named_buffers() if not torch.equal(before[name], value)}
    assert changed == {f"layers.{number}.magnitude" for number in range(len(STEM))}
