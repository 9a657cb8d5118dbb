"""Guidance away from the coarser scale's logits: its prior against a slow DCT, and how it composes."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale import TokenPyramid
from nextscale.nn.graphs import Graphs
from nextscale.sampling.draw import filter_logits
from nextscale.sampling.exact import near_tie
from nextscale.sampling.next_scale import sample_scales
from nextscale.sampling.noise import gumbel_noise
from nextscale.sampling.spatial_guidance import SpatiallyGuided, prior_matrix, spatial_strengths, spatially_guided
from nextscale.sampling.step import SamplingConfig, ScaleSample
from toys import make_baseline, make_pipeline, make_tokenizer, make_transformer

CPU = torch.device("cpu")
CONFIG = SamplingConfig(guidance=2.0, top_k=8, top_p=0.9)
STRENGTHS = (0.8, 0.5, -0.3)


def slow_dct(maps: Tensor) -> Tensor:
    """Coefficients of maps (V, h, w), each a sum over all places; scaled so that sizes can be compared."""
    _, height, width = maps.shape
    found = torch.zeros_like(maps)
    for u in range(height):
        for v in range(width):
            for y in range(height):
                for x in range(width):
                    wave = math.cos(math.pi * (2 * y + 1) * u / (2 * height))
                    wave *= math.cos(math.pi * (2 * x + 1) * v / (2 * width))
                    found[:, u, v] += maps[:, y, x] * wave / (height * width)
    return found


def slow_inverse(coefficients: Tensor) -> Tensor:
    """Maps of coefficients by `slow_dct`."""
    _, height, width = coefficients.shape
    found = torch.zeros_like(coefficients)
    for u in range(height):
        for v in range(width):
            share = (1 if u == 0 else 2) * (1 if v == 0 else 2)
            for y in range(height):
                for x in range(width):
                    wave = math.cos(math.pi * (2 * y + 1) * u / (2 * height))
                    wave *= math.cos(math.pi * (2 * x + 1) * v / (2 * width))
                    found[:, y, x] += share * coefficients[:, u, v] * wave
    return found


def slow_prior(coarser_BLV: Tensor, coarse: tuple[int, int], fine: tuple[int, int]) -> Tensor:
    """The coarser logits (B, l', V) at the finer size, frequency by frequency, (B, l, V)."""
    found = []
    for image in coarser_BLV.double():
        maps = image.t().unflatten(1, coarse)
        mixed = slow_dct(F.interpolate(maps[None], size=fine, mode="bicubic")[0])
        mixed[:, : coarse[0], : coarse[1]] = slow_dct(maps)
        found.append(slow_inverse(mixed).flatten(1).t())
    return torch.stack(found).float()


@pytest.mark.parametrize(
    ("coarse", "fine"), [((1, 1), (2, 2)), ((2, 2), (3, 3)), ((3, 4), (5, 4)), ((2, 3), (2, 7)), ((3, 3), (3, 3))]
)
def test_the_prior_has_the_maps_own_low_frequencies_and_its_enlargements_high_ones(coarse: Any, fine: Any) -> None:
    torch.manual_seed(0)
    coarser = torch.randn(2, math.prod(coarse), 5)
    expected = slow_prior(coarser, coarse, fine)
    assert torch.allclose(prior_matrix(coarse, fine, CPU) @ coarser, expected, atol=1e-5)
    if coarse != fine and coarse != (1, 1):
        maps = coarser.transpose(1, 2).unflatten(2, coarse)
        enlarged = F.interpolate(maps, size=fine, mode="bicubic").flatten(2).transpose(1, 2)
        assert not torch.allclose(enlarged, expected, atol=1e-2)  # the low frequencies do differ


def test_an_even_map_stays_even() -> None:
    assert torch.allclose(prior_matrix((3, 3), (8, 8), CPU) @ torch.full((1, 9, 2), 1.5), torch.tensor(1.5), atol=1e-5)


def test_logits_move_away_from_the_prior() -> None:
    logits, coarser = torch.tensor([[[1.0, 2.0]] * 4]), torch.tensor([[[0.0, 4.0]]])
    found = spatially_guided(logits, coarser, prior_matrix((1, 1), (2, 2), CPU), 0.5)
    assert torch.allclose(found, torch.tensor([[[1.5, 1.0]] * 4]), atol=1e-6)


def test_strengths() -> None:
    assert spatial_strengths((), 3) == [0, 0, 0]
    assert spatial_strengths((0.6,), 4) == pytest.approx([0, 0.6, 0.4, 0.2])
    assert spatial_strengths((0.6, 0.1), 5) == [0, 0.6, 0.1, 0.1, 0.1]
    assert spatial_strengths((0.6,), 1) == [0]


def steps_of(config: SamplingConfig, seeds: list[int], model: Any = None, **options: Any) -> list[ScaleSample]:
    model, classes = model or make_transformer(), torch.arange(len(seeds))
    return list(sample_scales(model, make_tokenizer().quantizer, classes, seeds=seeds, config=config, **options))


def packed(steps: list[ScaleSample]) -> Tensor:
    return torch.cat([step.tokens.flatten(1) for step in steps], dim=1)


@torch.no_grad()
def written_plainly(config: SamplingConfig, label: int, seed: int) -> Tensor:
    """Tokens of one image (1, L): whole forwards, the prior frequency by frequency, and a sorted filter."""
    quantizer, model = make_tokenizer().quantizer, make_transformer()
    maps: list[Tensor] = []
    before = None
    for scale, size in enumerate(model.schedule):
        filled = maps + [torch.zeros(1, *s, dtype=torch.long) for s in model.schedule.sizes[scale:]]
        latents = quantizer.teacher_forcing(TokenPyramid.from_maps(filled, model.schedule))
        given, free = (model(latents, torch.tensor([one]))[:, model.schedule.slice(scale)] for one in (label, 3))
        logits = plain = given + config.guidance * scale / 3 * (given - free)
        if before is not None:
            away = plain - slow_prior(before, model.schedule[scale - 1], size)
            logits = plain + config.spatial_guidance[scale - 1] * away
        before = plain
        logits = logits / config.at(scale).temperature
        kept = filter_logits(logits, top_k=config.top_k, top_p=config.top_p)
        noise = gumbel_noise(torch.tensor([seed]), scale, *logits.shape[1:])
        maps.append((kept + noise).argmax(dim=-1).view(1, *size))
    return TokenPyramid.from_maps(maps, model.schedule).packed


def test_sampling_equals_a_loop_written_plainly_alone_and_in_a_batch() -> None:
    config = replace(CONFIG, spatial_guidance=STRENGTHS, temperatures=(2.0, 1.0))
    seeds = [5, 6, 7]
    expected = torch.cat([written_plainly(config, label, seed) for label, seed in enumerate(seeds)])
    assert torch.equal(packed(steps_of(config, seeds)), expected)
    assert torch.equal(packed(steps_of(config, seeds[:1])), expected[:1])
    assert not torch.equal(expected, packed(steps_of(replace(config, spatial_guidance=()), seeds)))


@pytest.mark.parametrize("strengths", [0, (0.0, 0.0)])
@pytest.mark.parametrize("smooth", [False, True])
def test_no_strength_changes_nothing(strengths: Any, smooth: bool) -> None:
    plain = replace(CONFIG, smooth=smooth)
    off, on = (replace(plain, spatial_guidance=given) for given in (strengths, 0.9))
    for seeds in ([5], [5, 6]):
        accumulated = [steps_of(config, seeds)[-1].accumulated for config in (plain, off, on)]
        assert torch.equal(accumulated[0], accumulated[1])
        assert not torch.equal(accumulated[0], accumulated[2])


def test_one_graph_is_scale_by_scale_and_each_strength_has_its_own() -> None:
    class Counted(Graphs):
        def __call__(self, key: Any, function: Any, *inputs: Tensor) -> list[Tensor]:
            keys.add(key)
            return super().__call__(key, function, *inputs)

    keys: set[Any] = set()
    configs = [replace(CONFIG, spatial_guidance=given) for given in (0.5, (0.5, 0.5))]
    for config in configs:
        model = make_transformer().to(torch.bfloat16)
        expected = packed(steps_of(config, [5, 6], model))
        model.graphs = Counted(capture=False)
        assert torch.equal(packed(steps_of(config, [5, 6], model)), expected)
    assert {key[2] for key in keys} == set(configs)


def test_near_ties_are_wider() -> None:
    assert near_tie(replace(CONFIG, spatial_guidance=(0.2, -1.0))) == pytest.approx(3 * near_tie(CONFIG))


@pytest.mark.parametrize("value", ["1", float("nan"), (1e5,), ("much",), None])
def test_wrong_values_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="spatial_guidance must be numbers such as"):
        SamplingConfig(spatial_guidance=value)


def test_models_without_these_scales_refuse_it() -> None:
    with pytest.raises(ValueError, match="strengths of 4 scales after the first, the model has 3"):
        make_pipeline().generate(["red"], spatial_guidance=[1, 1, 1, 1])
    with pytest.raises(ValueError, match="spatial_guidance is next-scale prediction's"):
        make_baseline("raster").generate(["red"], spatial_guidance=0.5)


def test_a_scale_that_comes_again_has_the_same_prior() -> None:
    torch.manual_seed(0)
    logits = [torch.randn(2, length, 5) for length in (1, 4, 4, 9)]
    given = iter(logits)
    schedule = make_transformer().schedule
    predict = SpatiallyGuided(lambda scale, *read: next(given), schedule, [0.0, 0.5, 0.5, 0.5])
    found = [predict(scale, torch.zeros(1)) for scale in (0, 1, 1, 2)]
    for row, before in ((1, 0), (2, 0), (3, 2)):
        scale = (0, 1, 1, 2)[row]
        prior = slow_prior(logits[before], schedule[scale - 1], schedule[scale])
        assert torch.allclose(found[row], 1.5 * logits[row] - 0.5 * prior, atol=1e-5)
    assert torch.equal(found[0], logits[0])
