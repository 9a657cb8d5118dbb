"""The generation loop: equal to teacher forcing, independent of the batch, open to hooks."""

import numpy as np
import pytest
import torch

from nextscale import TokenPyramid
from nextscale.sampling import exact, next_scale
from nextscale.sampling.draw import filter_logits, guidance_ramp
from nextscale.sampling.next_scale import Predictor, SamplingConfig, SamplingHook, sample_scales
from nextscale.sampling.noise import gumbel_noise
from toys import make_pipeline, make_tokenizer, make_transformer

PLAIN = SamplingConfig(guidance=0.0, top_k=0, top_p=0.0)


def sample(config: SamplingConfig, classes: list[int], seeds: list[int], hook=None, **changes) -> TokenPyramid:
    tokenizer, model = make_tokenizer(**changes), make_transformer(**changes)
    steps = sample_scales(
        model, tokenizer.quantizer, torch.tensor(classes),
        seeds=seeds, config=config, hook=hook,
    )  # fmt: skip
    return TokenPyramid.from_maps([step.tokens for step in steps], model.schedule)


class Forced(SamplingHook):
    """Puts known tokens in the place of the drawn ones and keeps what the model would have said."""

    def __init__(self, pyramid: TokenPyramid) -> None:
        self.pyramid = pyramid

    def tokens(self, scale: int, tokens: torch.Tensor) -> torch.Tensor:
        return self.pyramid[scale]


@pytest.mark.parametrize("attention", ["causal", "scale"])
@pytest.mark.parametrize("changes", [{}, {"scales": ((1, 2), (2, 3), (2, 4))}, {"scales": ((3, 3),)}])
def test_forced_tokens_give_the_teacher_forcing_logits(
    monkeypatch: pytest.MonkeyPatch, changes: dict, attention: str
) -> None:
    tokenizer, model = make_tokenizer(**changes), make_transformer(**changes, attention=attention)
    pyramid = tokenizer.encode(torch.rand(2, 3, *tokenizer.config.image_size) * 2 - 1)
    seen = []
    original = Predictor.__call__

    def recording(self: Predictor, scale: int, accumulated: torch.Tensor) -> torch.Tensor:
        seen.append(original(self, scale, accumulated))
        return seen[-1]

    monkeypatch.setattr(Predictor, "__call__", recording)
    classes = torch.tensor([0, 2])
    steps = list(
        sample_scales(
            model, tokenizer.quantizer, classes, seeds=[0, 1],
            config=SamplingConfig(guidance=1.5, top_k=4), hook=Forced(pyramid),
        )
    )  # fmt: skip
    with torch.no_grad():
        latents = tokenizer.quantizer.teacher_forcing(pyramid)
        given = model(latents, classes)
        free = model(latents, torch.full_like(classes, 3))
    levels = model.schedule.levels()
    strength = torch.tensor([1.5 * guidance_ramp(int(k), len(model.schedule)) for k in levels])[:, None]
    expected = (1 + strength) * given - strength * free
    torch.testing.assert_close(torch.cat(seen, dim=1), expected, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(steps[-1].accumulated, tokenizer.quantizer.decode(pyramid).detach())


def test_sampling_equals_a_loop_written_plainly() -> None:
    tokenizer, model = make_tokenizer(), make_transformer()
    config = SamplingConfig(guidance=2.0, top_k=8, top_p=0.9, temperature=0.8)
    pyramid = sample(config, [1], [5])
    maps = []
    with torch.no_grad():
        for scale, size in enumerate(model.schedule):
            # Logits by teacher forcing of the known scales, later ones filled with zeros.
            filled = maps + [torch.zeros(1, *s, dtype=torch.long) for s in model.schedule.sizes[scale:]]
            latents = tokenizer.quantizer.teacher_forcing(TokenPyramid.from_maps(filled, model.schedule))
            span = model.schedule.slice(scale)
            given, free = (model(latents, torch.tensor([label]))[:, span] for label in (1, 3))
            strength = 2.0 * scale / (len(model.schedule) - 1)
            logits = filter_logits(((1 + strength) * given - strength * free) / 0.8, top_k=8, top_p=0.9)
            bits = np.random.Philox(key=[5, 0], counter=[0, scale, 0, 0]).random_raw(16 * (span.stop - span.start))
            uniform = ((bits.view("<u4") >> 1) + 0.5) / 2**31  # 32 entries take 16 numbers of 64 bits
            noise = -torch.log1p(-torch.from_numpy(uniform).view(-1, 32))
            maps.append((logits[0].softmax(dim=-1) / noise).argmax(dim=-1).view(1, *size))
    assert torch.equal(pyramid.packed, TokenPyramid.from_maps(maps, model.schedule).packed)


@pytest.mark.parametrize("attention", ["causal", "scale"])
@pytest.mark.parametrize("config", [PLAIN, SamplingConfig(guidance=3.0, top_k=5, top_p=0.8)])
def test_an_image_does_not_depend_on_its_batch(config: SamplingConfig, attention: str) -> None:
    classes, seeds = [0, 1, 2, 3] * 4, list(range(16))

    def drawn(classes: list[int], seeds: list[int]) -> torch.Tensor:
        model, quantizer = make_transformer(attention=attention), make_tokenizer().quantizer
        steps = sample_scales(model, quantizer, torch.tensor(classes), seeds=seeds, config=config)
        return TokenPyramid.from_maps([step.tokens for step in steps], model.schedule).packed

    together = drawn(classes, seeds)
    alone = torch.cat([drawn([c], [s]) for c, s in zip(classes, seeds, strict=True)])
    backwards = drawn(classes[::-1], seeds[::-1]).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)


@pytest.mark.parametrize("config", [PLAIN, SamplingConfig(smooth=True)])
def test_seeds_may_be_a_tensor_and_streams_have_noise_of_their_own(config: SamplingConfig) -> None:
    model, quantizer, classes = make_transformer(), make_tokenizer().quantizer, torch.tensor([0, 1])

    def drawn(**given: object) -> torch.Tensor:
        *_, last = sample_scales(model, quantizer, classes, config=config, **given)
        return last.accumulated

    plain = drawn(seeds=[3, 4])
    assert torch.equal(drawn(seeds=torch.tensor([3, 4])), plain)
    assert not torch.equal(drawn(seeds=[3, 4], stream=1), plain)


def test_the_margin_of_near_ties_grows_with_what_magnifies_rounding() -> None:
    plain = exact.near_tie(SamplingConfig(guidance=1.5))
    assert plain == exact.near_tie(SamplingConfig(guidance=0.0)) == exact.NEAR_TIE
    assert exact.near_tie(SamplingConfig(guidance=5.5)) == 3 * plain
    assert exact.near_tie(SamplingConfig(temperature=0.5)) == 2 * plain


def test_near_ties_are_decided_for_each_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every draw treated as a near tie, all tokens come from isolated logits and stay the same."""
    config = SamplingConfig(guidance=2.0, top_k=8, top_p=0.9)
    expected = sample(config, [0, 1, 2], [0, 1, 2]).packed
    monkeypatch.setattr(exact, "NEAR_TIE", 1e9)
    assert torch.equal(sample(config, [0, 1, 2], [0, 1, 2]).packed, expected)


class Recorder(SamplingHook):
    def __init__(self) -> None:
        self.calls: list[tuple[str, int, tuple[int, ...]]] = []

    def tokens(self, scale: int, tokens: torch.Tensor) -> torch.Tensor:
        self.calls.append(("tokens", scale, tuple(tokens.shape)))
        return tokens

    def embeddings(self, scale: int, embeddings: torch.Tensor) -> torch.Tensor:
        self.calls.append(("embeddings", scale, tuple(embeddings.shape)))
        return embeddings

    def accumulated(self, scale: int, accumulated: torch.Tensor) -> torch.Tensor:
        self.calls.append(("accumulated", scale, tuple(accumulated.shape)))
        return accumulated


def test_hooks_see_every_scale_and_change_nothing_by_themselves() -> None:
    recorder = Recorder()
    config = SamplingConfig(guidance=1.0, top_k=4)
    hooked = sample(config, [0, 1], [0, 1], hook=recorder)
    assert torch.equal(hooked.packed, sample(config, [0, 1], [0, 1]).packed)
    assert [call[:2] for call in recorder.calls] == [
        (name, scale) for scale in range(4) for name in ("tokens", "embeddings", "accumulated")
    ]
    assert recorder.calls[3][2] == (2, 2, 2)
    assert recorder.calls[5][2] == (2, 8, 4, 4)


def test_replacing_the_sum_changes_what_follows() -> None:
    class Wipe(SamplingHook):
        def accumulated(self, scale: int, accumulated: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(accumulated) if scale == 1 else accumulated

    plain, wiped = sample(PLAIN, [0], [3]), sample(PLAIN, [0], [3], hook=Wipe())
    assert torch.equal(plain.packed[:, :5], wiped.packed[:, :5])
    assert not torch.equal(plain.packed[:, 5:], wiped.packed[:, 5:])


def test_smooth_mode_mixes_codes() -> None:
    pipeline = make_pipeline()
    seeds = range(4)  # of one alone, all the weight may be one code's
    steps = list(pipeline.generate_steps([0], seeds=seeds, smooth=True))
    exact = pipeline.tokenizer.quantizer.lookup(steps[0].tokens)
    first = next(pipeline.generate_steps([0], seeds=seeds, smooth=True)).accumulated
    hard = pipeline.tokenizer.quantizer.refine(0, exact.expand(-1, -1, 4, 4))
    assert not torch.allclose(first, hard, atol=1e-4)


def test_smooth_mixture_is_the_published_formula() -> None:
    logits, noise = torch.randn(1, 2, 6), gumbel_noise(torch.tensor([0]), 0, 2, 6)
    config = SamplingConfig(top_k=0, top_p=0.0, smooth=True)
    mixture = next_scale.smooth_mixture(logits, noise, config, ratio=0.5)
    expected = ((logits * 1.5 + noise) / (0.27 * (1 - 0.95 * 0.5))).softmax(dim=-1)
    torch.testing.assert_close(mixture, expected)


@pytest.mark.parametrize(
    "settings",
    [{"top_p": 2.0}, {"top_p": -0.1}, {"top_k": -1}, {"temperature": 0.0}, {"guidance": float("nan")}],
)
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        SamplingConfig(**settings)
