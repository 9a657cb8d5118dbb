"""The baselines: cached sampling equals teacher forcing, schedules are kept, a known Gaussian is recovered."""

import math

import pytest
import torch
from torch import Tensor, nn

from nextscale.conditions import ClassLabels
from nextscale.families import family, family_of, kinds, raster, rq
from nextscale.families.config import family_presets
from nextscale.families.dit import DiT, DiTConfig, frequencies, noise_scheduler, sample_diffusion
from nextscale.families.maskgit import MaskGIT, MaskGITConfig, sample_masked
from nextscale.families.raster import Raster, RasterConfig
from nextscale.families.rq import RQConfig, RQTransformer
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.draw import draw_next
from nextscale.sampling.likelihood import teacher_inputs, token_log_probabilities
from nextscale.sampling.passes import masked_counts, masked_share
from nextscale.sampling.step import SamplingConfig, SamplingHook, pyramid_of
from toys import FAMILY_SCALES, make_tokenizer

PLAIN = SamplingConfig(guidance=0.0, top_k=0, top_p=0.0)


def lively(model: nn.Module) -> nn.Module:
    """All weights matter."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.25 if parameter.ndim > 1 else 0.1)
    return model.eval()


def toy(kind: str, **changes: object):
    one, scales = family(kind), FAMILY_SCALES[kind]
    settings: dict = {"depth": 2, "scales": scales, "codebook_size": 32, "latent_channels": 8, "classes": 3}
    return lively(one.network(one.config(**settings | changes))), make_tokenizer(scales=scales)


def drawn(model, tokenizer, config: SamplingConfig, seeds=(0, 1), classes=(0, 2), hook=None) -> list:
    chosen = torch.tensor(classes)
    return list(family_of(model.config).sample(model, tokenizer, chosen, seeds=seeds, config=config, hook=hook))


@pytest.mark.parametrize("kind", ["raster", "rq"])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_cached_sampling_is_teacher_forcing(kind: str, guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = toy(kind)
    seen: list[Tensor] = []
    numbers: list[int] = []

    def recording(logits: Tensor, step: int, seeds: Tensor, config: SamplingConfig) -> Tensor:
        numbers.append(step)
        seen.append(logits)
        return draw_next(logits, step, seeds, config)

    monkeypatch.setattr({"raster": raster, "rq": rq}[kind], "draw_next", recording)
    steps = drawn(model, tokenizer, SamplingConfig(guidance=guidance, top_k=0, top_p=0.0))
    tokens = pyramid_of(steps, model.schedule)
    assert len(steps) == 4, "a step per row"
    assert numbers == list(range(len(seen))), "each draw has noise of its own"
    inputs = teacher_inputs(model, tokenizer.quantizer, tokens)
    with torch.no_grad():
        conditional, unconditional = model(inputs, torch.tensor([0, 2])), model(inputs, torch.tensor([3, 3]))
    forced = (1 + guidance) * conditional - guidance * unconditional
    sampled = torch.cat(seen, dim=1)  # in the order of drawing: places, and the codes of each
    if kind == "rq":
        sampled = sampled.unflatten(1, (16, 3)).transpose(1, 2).flatten(1, 2)
    assert torch.allclose(sampled, forced, atol=2e-3, rtol=1e-3)
    assert torch.allclose(steps[-1].accumulated, tokenizer.quantizer.decode(tokens))
    again = drawn(model, tokenizer, SamplingConfig(guidance=guidance, top_k=0, top_p=0.0), (1,), (2,))
    assert torch.equal(pyramid_of(again, model.schedule).packed[0], tokens.packed[1]), "one seed per image"


@pytest.mark.parametrize("kind", ["raster", "rq"])
def test_no_token_sees_itself_or_later_ones(kind: str) -> None:
    model, tokenizer = toy(kind)
    length = model.schedule.length
    tokens = torch.randint(32, (1, length))
    order = torch.arange(length)
    if kind == "rq":  # place by place, code by code
        order = order.view(3, 16).t().flatten()
    with torch.no_grad():

        def logits(packed: Tensor) -> Tensor:
            pyramid = TokenPyramid(packed, model.schedule)
            return model(teacher_inputs(model, tokenizer.quantizer, pyramid), torch.tensor([1]))[0, order]

        before = logits(tokens)
        for place in (0, length // 2, length - 2):
            changed = tokens.clone()
            changed[0, order[place]] = (changed[0, order[place]] + 1) % 32
            after = logits(changed)
            assert torch.allclose(after[: place + 1], before[: place + 1], atol=1e-5)
            assert not torch.allclose(after[place + 1], before[place + 1], atol=1e-4)


def test_likelihoods_sum_to_one() -> None:
    model, tokenizer = toy("raster", scales=((1, 2),))
    tokenizer = make_tokenizer(scales=((1, 2),))
    every = torch.cartesian_prod(torch.arange(32), torch.arange(32))
    pyramid = TokenPyramid(every, model.schedule)
    log_p, _ = token_log_probabilities(model, tokenizer.quantizer, pyramid, torch.zeros(1024, dtype=torch.int64))
    assert float(log_p.double().sum(1).exp().sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("kind", "weights"), [("var", (4.0, 1.0, 0.0, 0.5)), ("rq", (3.0, 1.0, 1.0))])
def test_weights_of_scales_are_those_of_a_sum_written_plainly(kind: str, weights: tuple, smoothing: float) -> None:
    model, tokenizer = toy(kind)
    tokens = tokenizer.encode(torch.rand(2, 3, *tokenizer.config.image_size) * 2 - 1)
    classes = torch.tensor([0, 2])

    def loss(**given: object) -> tuple[Tensor, dict[str, Tensor]]:
        settings: dict = {"tokenizer": tokenizer, "config": model.config, "label_smoothing": smoothing}
        return family(kind).loss(model, tokens, classes, **settings, **given)

    with torch.no_grad():
        probabilities = model(model.inputs(tokenizer.quantizer, tokens), classes).log_softmax(dim=-1)
        plain, figures = loss()
        weighted, same = loss(scale_weights=weights)
        tenfold, _ = loss(scale_weights=[10 * weight for weight in weights])
        equal, _ = loss(scale_weights=[2.0] * len(weights))
    total = count = 0.0
    for image in range(2):
        for place, level in enumerate(tokens.schedule.levels().tolist()):
            of_codes = probabilities[image, place]
            known = of_codes[tokens.packed[image, place]]
            total -= weights[level] * float((1 - smoothing) * known + smoothing * of_codes.mean())
            count += weights[level]
    assert float(weighted) == pytest.approx(total / count, rel=1e-5) == float(tenfold)
    assert abs(float(weighted - plain)) > 1e-3
    torch.testing.assert_close(equal, plain)
    assert all(torch.equal(same[name], figures[name]) for name in figures), "the log's losses stay unweighted"


def test_kinds_that_do_not_fit_the_tokenizer_are_refused() -> None:
    with pytest.raises(ValueError, match="raster order reads a single token map, the tokenizer has 3 scales"):
        RasterConfig(scales=((1, 1), (2, 2), (4, 4)))
    with pytest.raises(ValueError, match="masked prediction reads a single token map"):
        MaskGITConfig(scales=((4, 4),) * 2)
    with pytest.raises(ValueError, match="residual codes of one resolution"):
        RQConfig(scales=((2, 2), (4, 4)))
    with pytest.raises(ValueError, match="patch 3 does not divide"):
        DiTConfig(scales=((4, 4),), patch=3)
    with pytest.raises(ValueError, match="kind 'gan' is not known"):
        family("gan")
    model, tokenizer = toy("maskgit")
    with pytest.raises(ValueError, match="gives no probabilities"):
        teacher_inputs(model, tokenizer.quantizer, tokenizer.encode(torch.zeros(1, 3, 16, 16)))
    with pytest.raises(ValueError, match="hooks reach into the scales"):
        drawn(model, tokenizer, PLAIN, hook=SamplingHook())


@pytest.mark.parametrize(("length", "steps"), [(64, 8), (16, 8), (16, 16), (5, 4), (1, 1), (256, 8)])
def test_masked_counts_follow_the_cosine_and_end_at_none(length: int, steps: int) -> None:
    counts = masked_counts(length, steps)
    assert len(counts) == steps and counts[-1] == 0
    assert all(a > b for a, b in zip([length, *counts], counts, strict=False)) or steps > length
    for step, count in enumerate(counts, 1):
        assert count <= max(0, math.cos(math.pi / 2 * step / steps) * length)
    assert masked_share(0) == 1 and masked_share(1) == pytest.approx(0)


def test_masked_generation_keeps_what_it_has_and_ends_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = toy("maskgit")
    masks: list[Tensor] = []
    original = MaskGIT.predict_masked

    def recording(self: MaskGIT, latents: Tensor, masked: Tensor, condition) -> Tensor:
        masks.append(masked[:2])
        return original(self, latents, masked, condition)

    monkeypatch.setattr(MaskGIT, "predict_masked", recording)
    config = SamplingConfig(guidance=1.0, top_k=0, top_p=0.0, steps=5)
    wanted = ClassLabels(torch.tensor([0, 1]), 3)
    steps = list(sample_masked(model, tokenizer.quantizer, wanted, seeds=torch.tensor([0, 1]), config=config))
    assert [int(mask.sum()) // 2 for mask in masks] == [16, *masked_counts(16, 5)[:-1]]
    for before, after, step, following in zip(masks, masks[1:], steps, steps[1:], strict=False):
        assert not (after & ~before).any(), "what was known is never masked again"
        known = ~after.view(2, 4, 4)
        assert torch.equal(step.tokens[known], following.tokens[known])
    assert torch.allclose(steps[-1].accumulated, tokenizer.quantizer.decode(pyramid_of(steps, model.schedule)))


def test_masked_tokens_are_not_seen() -> None:
    model, _ = toy("maskgit")
    latents, masked = torch.randn(1, 16, 8), torch.zeros(1, 16, dtype=torch.bool)
    masked[0, 3] = True
    other = latents.clone()
    other[0, 3] += 1
    with torch.no_grad():
        assert torch.equal(model(latents, masked, torch.tensor([0])), model(other, masked, torch.tensor([0])))
        assert not torch.equal(model(latents, masked, torch.tensor([0])), model(latents, ~masked, torch.tensor([0])))


def test_diffusion_recovers_a_known_gaussian() -> None:
    """With the noise that is optimal for a Gaussian, samples have its mean and spread."""
    mean, spread = 0.7, 0.3
    config = DiTConfig(depth=1, scales=((4, 4),), latent_channels=8, classes=3, codebook_size=32, latent_scale=2.0)
    tokenizer = make_tokenizer(scales=((4, 4),))
    bars = noise_scheduler(config).alphas_cumprod

    class Optimal(DiT):
        def forward(self, noisy: Tensor, times: Tensor, classes: Tensor) -> Tensor:
            bar = bars[times].view(-1, 1, 1, 1)
            return (1 - bar).sqrt() * (noisy - bar.sqrt() * mean) / (bar * spread**2 + 1 - bar)

    model = Optimal(config)
    plain = SamplingConfig(guidance=0.0, steps=250)
    wanted = ClassLabels(torch.zeros(64, dtype=torch.int64), 3)
    *_, last = sample_diffusion(model, tokenizer.quantizer, wanted, seeds=torch.arange(64), config=plain)
    values = last.accumulated / 2.0
    assert float(values.mean()) == pytest.approx(mean, abs=0.01)
    assert float(values.std()) == pytest.approx(spread, abs=0.01)
    assert last.whole is not None and torch.equal(
        last.whole.packed, tokenizer.quantizer.encode(last.accumulated).packed
    )


def test_the_diffusion_model_starts_as_nothing_and_unpatches_what_it_patches() -> None:
    model, _ = toy("dit", patch=2)
    noisy, times = torch.randn(2, 8, 4, 4), torch.tensor([3, 700])
    with torch.no_grad():
        out = model(noisy, times, torch.tensor([0, 1]))
        assert out.shape == noisy.shape
        assert not torch.allclose(out, model(noisy, times.flip(0), torch.tensor([0, 1])))
        assert not torch.allclose(out, model(noisy, times, torch.tensor([1, 1])))
        model.initialise()
        assert model(noisy, times, torch.tensor([0, 1])).abs().max() == 0
    waves = frequencies(torch.tensor([0, 1]))
    assert waves.shape == (2, 256) and waves[0].sum() == 128 and waves[1, 0] == pytest.approx(math.cos(1))


def test_sizes_of_the_presets() -> None:
    with torch.device("meta"):
        public = DiT(family_presets("dit")["dit-xl-2"])  # pyright: ignore[reportArgumentType]
    count = sum(parameter.numel() for parameter in public.parameters())
    assert count == pytest.approx(675e6, rel=0.01)
    for kind in kinds():
        one = family(kind)
        for name, config in one.presets().items():
            assert family_of(config) is one, name
    assert isinstance(family_presets("raster")["raster-d16"], RasterConfig)
    with torch.device("meta"):
        raster = Raster(family_presets("raster")["raster-d16"])
        by_codes = RQTransformer(family_presets("rq")["rq-d16"])  # pyright: ignore[reportArgumentType]
    assert sum(p.numel() for p in raster.parameters()) == pytest.approx(310e6, rel=0.02)
    assert sum(p.numel() for p in by_codes.parameters()) > 310e6
