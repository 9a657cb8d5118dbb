"""Settings per scale: guidance that ends before the last scale, and temperatures."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale import TokenPyramid, VARPipeline
from nextscale.bench.speed import measure_speed
from nextscale.sampling import draw
from nextscale.sampling.draw import guidance_strengths
from nextscale.sampling.next_scale import sample_scales
from nextscale.sampling.noise import gumbel_noise
from nextscale.sampling.step import SamplingConfig, SamplingHook, ScaleSample
from toys import centre, make_baseline, make_pipeline, make_tokenizer, make_transformer, toy_image

CONFIG = SamplingConfig(guidance=2.0, top_k=8, top_p=0.9)
TEMPERATURES = (3.0, 1.0, 0.5)


def steps_of(config: SamplingConfig, seeds: list[int], **options: Any) -> list[ScaleSample]:
    """A batch of classes 0, 1, ...; of one image too."""
    model, classes = make_transformer(), torch.arange(len(seeds))
    return list(sample_scales(model, make_tokenizer().quantizer, classes, seeds=seeds, config=config, **options))


def same(one: list[ScaleSample], other: list[ScaleSample]) -> bool:
    return all(torch.equal(a.accumulated, b.accumulated) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("seeds", [[5], [5, 6, 7]])
def test_neutral_values_change_nothing(seeds: list[int], smooth: bool) -> None:
    plain = replace(CONFIG, smooth=smooth)
    neutral = replace(plain, guided_scales=4, temperatures=(1.0,))
    assert same(steps_of(plain, seeds), steps_of(neutral, seeds))
    cool = replace(plain, temperature=0.5)
    assert same(steps_of(cool, seeds), steps_of(replace(plain, temperatures=(0.5, 0.5)), seeds))


@torch.no_grad()
def written_plainly(config: SamplingConfig, label: int, seed: int) -> Tensor:
    """Tokens of one image (1, L): both halves at all scales, strengths zeroed, logits divided scale by scale."""
    quantizer, model = make_tokenizer().quantizer, make_transformer()
    maps: list[Tensor] = []
    for scale, size in enumerate(model.schedule):
        filled = maps + [torch.zeros(1, *s, dtype=torch.long) for s in model.schedule.sizes[scale:]]
        latents = quantizer.teacher_forcing(TokenPyramid.from_maps(filled, model.schedule))
        span = model.schedule.slice(scale)
        given, free = (model(latents, torch.tensor([one]))[:, span] for one in (label, 3))
        strength = config.guidance * scale / 3 if scale < (config.guided_scales or 4) else 0
        temperature = ([1.0] * 4 if not config.temperatures else [*config.temperatures, config.temperatures[-1]])[scale]
        logits = ((1 + strength) * given - strength * free) / temperature
        kept = draw.filter_logits(logits, top_k=config.top_k, top_p=config.top_p)
        noise = gumbel_noise(torch.tensor([seed]), scale, *logits.shape[1:])
        maps.append((kept + noise).argmax(dim=-1).view(1, *size))
    return TokenPyramid.from_maps(maps, model.schedule).packed


@pytest.mark.parametrize("guided_scales", [0, 1, 2, 3])
@pytest.mark.parametrize("temperatures", [(), TEMPERATURES])
def test_sampling_equals_a_loop_written_plainly(guided_scales: int, temperatures: tuple[float, ...]) -> None:
    config = replace(CONFIG, guided_scales=guided_scales, temperatures=temperatures)
    seeds = [5, 6, 7]
    expected = torch.cat([written_plainly(config, label, seed) for label, seed in enumerate(seeds)])
    together = torch.cat([step.tokens.flatten(1) for step in steps_of(config, seeds)], dim=1)
    assert torch.equal(together, expected)
    alone = torch.cat([step.tokens.flatten(1) for step in steps_of(config, seeds[:1])], dim=1)
    assert torch.equal(alone, expected[:1])


class Tempered(SamplingHook):
    """Divides logits as `temperatures` do."""

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        return logits / TEMPERATURES[min(scale, 2)]


@pytest.mark.parametrize("smooth", [False, True])
def test_temperatures_divide_logits_before_the_filters(smooth: bool) -> None:
    plain = replace(CONFIG, smooth=smooth)
    own = replace(plain, temperatures=TEMPERATURES)
    assert same(steps_of(own, [4, 5], hook=SamplingHook()), steps_of(plain, [4, 5], hook=Tempered()))
    assert not same(steps_of(own, [4, 5]), steps_of(plain, [4, 5]))


def test_the_kernel_takes_the_temperature_of_its_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = pytest.importorskip("nextscale.sampling.kernels")
    if torch.cuda.is_available():
        pytest.skip("without Triton's interpreter, kernels take no tensors of the CPU")
    config, taken = replace(CONFIG, temperatures=TEMPERATURES), []
    expected = steps_of(config, [5])
    original = kernels.draw

    def recording(logits: Tensor, step: int, seeds: Tensor, config: SamplingConfig, *, stream: int) -> Tensor:
        taken.append(config.temperature)
        return original(logits, step, seeds, config, stream=stream)

    monkeypatch.setattr(kernels, "draw", recording)
    monkeypatch.setattr(draw, "uses_kernels", lambda x: True)
    assert same(steps_of(config, [5]), expected)
    assert taken == [3.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(("guided_scales", "rows"), [(0, [4, 4, 4, 4]), (3, [4, 4, 4, 2]), (1, [2, 2, 2, 2])])
def test_scales_without_guidance_have_no_unconditional_half(guided_scales: int, rows: list[int]) -> None:
    model, seen = make_transformer().to(torch.bfloat16), []

    def run(x_BLC: Tensor, *inputs: Any, **options: Any) -> Tensor:
        seen.append(len(x_BLC))
        return model.transform(x_BLC, *inputs, **options)

    model.run = run
    config = replace(CONFIG, guided_scales=guided_scales)
    list(sample_scales(model, make_tokenizer().quantizer, torch.tensor([0, 1]), seeds=[0, 1], config=config))
    assert seen == rows


def test_guidance_keeps_its_ramp() -> None:
    assert guidance_strengths(SamplingConfig(guidance=3.0), 4) == [0, 1, 2, 3]
    assert guidance_strengths(SamplingConfig(guidance=3.0, guided_scales=3), 4) == [0, 1, 2, 0]
    assert guidance_strengths(SamplingConfig(guidance=3.0, guided_scales=1), 1) == [3]


@pytest.mark.parametrize("classes", ["auto", "red"])
def test_edits_take_them(classes: str) -> None:
    pipeline, image, mask = make_pipeline(), toy_image(1, 0), centre(16, 16)

    def made(**settings: Any) -> bytes:
        images = pipeline.inpaint(image, mask, classes=classes, seeds=[3, 4], top_k=0, **settings).images
        return b"".join(one.tobytes() for one in images)

    assert made(guided_scales=4, temperatures=[1]) == made()
    assert made(guided_scales=1, guidance=2.0) == made(guidance=0.0)
    assert made(temperatures=[4, 4, 4, 4]) == made(temperature=4.0) != made()


def test_sequences_become_tuples_and_configs_stay_hashable() -> None:
    config = make_pipeline().sampling(temperatures=[2, 1], guided_scales=2)
    assert config == make_pipeline().sampling(temperatures=(2.0, 1.0), guided_scales=2)
    assert hash(config) == hash(replace(config))
    assert [config.at(scale).temperature for scale in range(4)] == [2, 1, 1, 1]
    assert CONFIG.at(3) is CONFIG


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guided_scales": -1}, "guided_scales must be at least 0, got -1; 0 is all"),
        ({"temperatures": (1.0, 0.0)}, r"temperatures must be numbers above 0, one per scale, .* got \(1.0, 0.0\)"),
        ({"temperatures": (float("nan"),)}, "temperatures must be numbers above 0"),
        ({"temperatures": (float("inf"),)}, "temperatures must be numbers above 0"),
        ({"temperatures": "11"}, "temperatures must be numbers above 0"),
        ({"temperatures": 0.9}, "temperatures must be numbers above 0"),
        ({"temperatures": ("warm",)}, "temperatures must be numbers above 0"),
        ({"temperatures": (1.0,), "temperature": 0.9}, "give temperature, or temperatures per scale, not both"),
    ],
)
def test_wrong_values_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**settings)


@pytest.mark.parametrize(("name", "value"), [("guided_scales", 5), ("temperatures", (1.0,) * 5)])
def test_more_scales_than_the_model_has_are_refused(pipeline: VARPipeline, name: str, value: Any) -> None:
    message = f"{name}: settings of 5 scales, the model has 4"
    with pytest.raises(ValueError, match=message):
        pipeline.generate(["red"], **{name: value})
    with pytest.raises(ValueError, match=message):
        pipeline.inpaint(toy_image(0, 0), centre(16, 16), **{name: value})


@pytest.mark.parametrize("kind", ["raster", "rq", "maskgit", "dit"])
@pytest.mark.parametrize("settings", [{"guided_scales": 1}, {"temperatures": (0.9,)}])
def test_kinds_without_scales_refuse_them(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="guided_scales and temperatures are next-scale prediction's"):
        make_baseline(kind).generate(["red"], **settings)


def test_the_benchmark_counts_the_flops_that_are_spent(pipeline: VARPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextscale.bench.speed.gemm_rate", lambda *_: 1.0)
    given: list[dict[str, Any]] = [{}, {"guided_scales": 2}, {"guided_scales": 1}, {"guidance": 0.0}]
    whole, some, none, off = (measure_speed(pipeline, [1], rounds=1, **settings)[0] for settings in given)
    assert whole.flops_per_image > some.flops_per_image > none.flops_per_image == off.flops_per_image
    assert off.flops_per_image > off.decoder_flops_per_image > 0
