"""What comes next has a place to go in: these tests make up predictors, conditions, quantisers and accelerations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nextscale
from nextscale import ScaleSchedule, TokenPyramid
from nextscale.cli import main
from nextscale.conditions import ClassLabels
from nextscale.nn import TransformerConfig
from nextscale.nn.attention import SelfAttention
from nextscale.nn.block import AdaLNBlock
from nextscale.nn.transformer import Transformer
from nextscale.runtime import image_generator
from nextscale.sampling.next_scale import Predictor, sample, sample_scales
from nextscale.sampling.step import SamplingConfig, ScaleSample
from nextscale.tokenizer.residual import Quantizer, downsample, flatten_map
from toys import make_baseline, make_tokenizer, make_transformer, transformer_config

PLAIN = SamplingConfig(guidance=0.0, top_k=0, top_p=0.0)
GUIDED = SamplingConfig(guidance=2.0, top_k=0, top_p=0.0)


def tokens_of(steps: list[ScaleSample]) -> list[Tensor]:
    return [step.tokens for step in steps]


# Predictor: one model for the coarse scales, another for the fine ones.


def test_two_models_share_an_image() -> None:
    torch.manual_seed(0)
    quantizer, coarse, fine = make_tokenizer().quantizer, make_transformer(), make_transformer(depth=3)
    conditions, scales = ClassLabels(torch.tensor([1]), 3), len(coarse.schedule)

    def predictors(model: Transformer) -> Predictor:
        return Predictor(model, conditions, [0.0] * scales)

    first, second = predictors(coarse), predictors(fine)

    def predict(scale: int, accumulated: Tensor) -> Tensor:
        logits = second(scale, accumulated)  # the second model reads all scales, and speaks at the last two
        return first(scale, accumulated) if scale < scales - 2 else logits

    mixed = tokens_of(list(sample(predict, quantizer, seeds=[5], config=PLAIN)))
    one = torch.tensor([1])
    alone = [tokens_of(list(sample_scales(model, quantizer, one, seeds=[5], config=PLAIN))) for model in (coarse, fine)]
    for scale in range(scales - 2):
        assert torch.equal(mixed[scale], alone[0][scale])
    assert not all(torch.equal(a, b) for a, b in zip(mixed[-2:], alone[0][-2:], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(mixed, alone[1], strict=True))


def test_a_predictor_that_fails_leaves_nothing_behind() -> None:
    model, quantizer = make_transformer(), make_tokenizer().quantizer
    predictor = Predictor(model, ClassLabels(torch.tensor([1]), 3), [0.0] * len(model.schedule))

    def failing(scale: int, accumulated: Tensor) -> Tensor:
        if scale == 2:
            raise RuntimeError("out of memory")
        return predictor(scale, accumulated)

    def drawn() -> list[Tensor]:
        return tokens_of(list(sample_scales(model, quantizer, torch.tensor([1]), seeds=[5], config=PLAIN)))

    before, steps = drawn(), sample(failing, quantizer, seeds=[5], config=PLAIN)
    assert torch.equal(next(steps).tokens, before[0]) and torch.equal(next(steps).tokens, before[1])
    with pytest.raises(RuntimeError, match="out of memory"):
        next(steps)
    assert torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(drawn(), before, strict=True))


# Condition: a text, as a vector and tokens with a mask.


@dataclass(frozen=True)
class Text:
    """Prompts as an encoder leaves them: a vector each, and tokens of which some are padding."""

    pooled: Tensor  # (B, 6)
    tokens: Tensor  # (B, T, 6)
    mask: Tensor  # (B, T) bool

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, rows: slice) -> Text:
        return Text(self.pooled[rows], self.tokens[rows], self.mask[rows])

    def with_unconditional(self) -> Text:
        nothing = torch.zeros_like(self.mask)
        return Text(*(torch.cat(pair) for pair in (
            (self.pooled, torch.zeros_like(self.pooled)), (self.tokens, self.tokens), (self.mask, nothing),
        )))  # fmt: skip

    def vectors(self, model: Any) -> Tensor:
        return model.pooled(self.pooled)

    def context(self, model: Any) -> tuple[Tensor, Tensor]:
        return model.words(self.tokens), self.mask


class TextBlock(AdaLNBlock):
    """A block that adds the mean of the text's tokens, as cross-attention would its mixture."""

    def forward(self, x_BLC: Tensor, rows_B6C: Tensor, *, context: tuple[Tensor, Tensor], **others: Any) -> Tensor:
        tokens, mask = context
        share = mask / mask.sum(dim=1, keepdim=True).clamp_min(1)
        return super().forward(x_BLC, rows_B6C, **others) + (share[..., None] * tokens).sum(dim=1, keepdim=True)


class TextTransformer(Transformer):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, block=TextBlock)
        self.pooled, self.words = nn.Linear(6, config.width), nn.Linear(6, config.width)


def text(*prompts: int) -> Text:
    tokens = torch.stack([torch.randn(4, 6, generator=image_generator(prompt)) for prompt in prompts])
    return Text(tokens.mean(dim=1), tokens, torch.tensor([[True, True, True, False]] * len(prompts)))


def test_samplers_take_texts() -> None:
    torch.manual_seed(0)
    model, quantizer = TextTransformer(transformer_config()).eval(), make_tokenizer().quantizer
    model.initialise(gamma=1.0, head=1.0)

    def drawn(condition: Text, *seeds: int) -> list[Tensor]:
        steps = sample_scales(model, quantizer, condition, seeds=seeds, config=GUIDED)
        return tokens_of(list(steps))

    both, alone = drawn(text(1, 2), 0, 0), drawn(text(2), 0)
    assert all(torch.equal(pair[1:], one) for pair, one in zip(both, alone, strict=True)), "whatever the batch"
    assert not all(torch.equal(pair[:1], one) for pair, one in zip(both, alone, strict=True)), "prompts matter"
    padded = text(2)
    padded.tokens[:, 3] += 100.0  # behind the mask; the vector was made before
    assert all(torch.equal(a, b) for a, b in zip(drawn(padded, 0), alone, strict=True)), "padding does not"
    padded.tokens[:, 2] += 100.0
    assert not all(torch.equal(a, b) for a, b in zip(drawn(padded, 0), alone, strict=True)), "tokens do"


class Described(ClassLabels):
    """Classes that bring tokens, too."""

    def context(self, model: Any) -> tuple[Tensor, Tensor]:
        return self.ids[:, None, None] + torch.zeros(1, 2, 6), torch.ones(len(self), 2, dtype=torch.bool)


@torch.no_grad()
def test_every_family_hands_tokens_to_its_blocks() -> None:
    wanted = Described(torch.tensor([0, 2]), 3)
    rq = make_baseline("rq", scales=((2, 2),) * 3).transformer
    tokens, mask = rq.depth_condition(torch.zeros(2, 4, rq.config.width), wanted).context[0]
    assert tokens[:, 0, 0].tolist() == [0.0] * 4 + [2.0] * 4 and mask.shape == (8, 2), "each image's at all its places"
    dit = make_baseline("dit").transformer
    assert torch.equal(dit.condition(torch.tensor([1, 2]), wanted).context[0][0], wanted.context(dit)[0])


# Quantizer: signs instead of a codebook.


class SignQuantizer(Quantizer):
    """Each channel's sign: 2^C tokens, none of them learned (after BSQ, arXiv 2406.07548)."""

    def __init__(self, schedule: ScaleSchedule, channels: int) -> None:
        self.schedule, self.powers = schedule, 2 ** torch.arange(channels)

    @property
    def vocabulary(self) -> int:
        return 2 ** len(self.powers)

    def zeros(self, batch: int) -> Tensor:
        return torch.zeros(batch, len(self.powers), *self.schedule.final)

    def choose(self, features: Tensor) -> Tensor:
        return ((features > 0) * self.powers[:, None, None]).sum(dim=1)

    def lookup(self, tokens: Tensor) -> Tensor:
        bits = tokens[:, None] // self.powers[:, None, None] % 2
        return (2.0 * bits - 1) / len(self.powers) ** 0.5

    def refine(self, scale: int, upsampled: Tensor) -> Tensor:
        return upsampled * 0.7**scale


def test_signs_pass_the_tests_of_the_recursion() -> None:
    schedule = ScaleSchedule([1, 2, 4])
    signs = SignQuantizer(schedule, channels=5)
    features = torch.randn(3, 5, 4, 4, generator=image_generator(0)) * 0.5
    tokens = signs.encode(features)
    total = torch.zeros_like(features)
    left = [features.square().mean()]
    for scale, size in enumerate(schedule):
        chosen = F.interpolate(features - total, size=size, mode="area")
        expected = sum((chosen[:, bit] > 0).long() * 2**bit for bit in range(5))
        assert torch.equal(tokens[scale], expected)
        total = total + 0.7**scale * F.interpolate(
            torch.where(chosen > 0, 1.0, -1.0) / 5**0.5, size=(4, 4), mode="bicubic"
        )
        left.append((features - total).square().mean())
    torch.testing.assert_close(signs.decode(tokens), total)
    assert left[-1] < left[0]
    inputs, states = signs.teacher_forcing(tokens), [state.accumulated for state in signs.states(tokens)]
    expected = [flatten_map(downsample(states[scale - 1], schedule[scale])) for scale in (1, 2)]
    torch.testing.assert_close(inputs, torch.cat(expected, dim=1))
    codes = signs.codes()
    assert codes.shape == (32, 5) and torch.equal(signs.choose(codes.t()[None, :, :, None])[0, :, 0], torch.arange(32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_quantizer_may_have_another_type(dtype: torch.dtype) -> None:
    plain, other = make_tokenizer().quantizer, make_tokenizer().quantizer.to(dtype)
    features = torch.randn(2, 8, 4, 4, generator=image_generator(0)) * 0.3
    with torch.no_grad():
        tokens = other.encode(features)
        exact = 0.1 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(other.decode(tokens).float(), plain.decode(tokens), atol=exact, rtol=exact)
        weights = torch.rand(2, 3, 32, generator=image_generator(1)).softmax(dim=-1)
        assert other.mixture(weights).dtype == other.distances(plain.mixture(weights)).dtype == dtype
        torch.testing.assert_close(other.mixture(weights).float(), plain.mixture(weights), atol=exact, rtol=exact)
    smooth, one = SamplingConfig(guidance=0.0, smooth=True), torch.tensor([0])
    *_, last = sample_scales(make_transformer(), other, one, seeds=[0], config=smooth)
    assert last.accumulated.dtype == dtype and bool(last.accumulated.isfinite().all())


def test_a_transformer_draws_signs() -> None:
    schedule = ScaleSchedule([1, 2, 4])
    signs = SignQuantizer(schedule, channels=5)
    model = make_transformer(scales=schedule.sizes, codebook_size=32, latent_channels=5)
    for config in (PLAIN, SamplingConfig(guidance=0.0, smooth=True)):
        steps = list(sample_scales(model, signs, torch.tensor([0, 1]), seeds=[0, 1], config=config))
        assert steps[-1].accumulated.shape == (2, 5, 4, 4)
    steps = list(sample_scales(model, signs, torch.tensor([0]), seeds=[0], config=PLAIN))
    packed = TokenPyramid.from_maps(tokens_of(steps), schedule)
    torch.testing.assert_close(signs.decode(packed), steps[-1].accumulated)


# Acceleration: positions left out, guidance left out.


class SparsePredictor(Predictor):
    """At the last scale, predicts some positions only; the others take the logits of the nearest one."""

    kept: Callable[[int], Tensor]

    def __call__(self, scale: int, accumulated: Tensor) -> Tensor:
        if scale < len(self.strengths) - 1:
            return super().__call__(scale, accumulated)
        model, length = self.model, self.model.sequence.lengths[scale]
        places = self.kept(length)
        latents = self.guidance.doubled(flatten_map(downsample(accumulated, model.schedule[scale])))
        x_BLC = model.embed(latents, self.condition, model.sequence.slice(scale))[:, places]
        read = self.guidance.merged(model.transform(x_BLC, self.condition, cache=self.cache), self.strengths[scale])
        nearest = (torch.arange(length)[:, None] - places).abs().argmin(dim=1)
        return model.classify(read)[:, nearest]


@torch.no_grad()
def test_positions_can_be_left_out() -> None:
    model, quantizer = make_transformer(), make_tokenizer().quantizer
    strengths = [0.0, 0.5, 1.0, 1.5]

    def drawn(kept: Callable[[int], Tensor] | None) -> tuple[list[Tensor], Predictor]:
        kind = Predictor if kept is None else SparsePredictor
        predictor = kind(model, ClassLabels(torch.tensor([2]), 3), strengths)
        if isinstance(predictor, SparsePredictor):
            predictor.kept = kept
        return tokens_of(list(sample(predictor, quantizer, seeds=[3], config=PLAIN))), predictor

    plain, _ = drawn(None)
    everything, _ = drawn(torch.arange)
    half, sparse = drawn(lambda length: torch.arange(0, length, 2))
    assert all(torch.equal(a, b) for a, b in zip(everything, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(half[:-1], plain[:-1], strict=True))
    assert sparse.cache.end == model.sequence.length - model.sequence.lengths[-1] // 2


@torch.no_grad()
def test_guidance_can_be_left_out_from_a_scale_on() -> None:
    model, quantizer = make_transformer(), make_tokenizer().quantizer
    conditions, states = ClassLabels(torch.tensor([0, 2]), 3), []
    sparing = Predictor(model, conditions, [0.5, 1.0, 0.0, 0.0])
    full, plain = Predictor(model, conditions, [0.5, 1.0, 1.0, 1.0]), Predictor(model, conditions, [0.0] * 4)
    accumulated = quantizer.zeros(2)
    for scale, size in enumerate(model.schedule):
        logits, batch = sparing(scale, accumulated), sparing.condition.batch
        reference = (full if scale < 2 else plain)(scale, accumulated)
        if scale < 2:
            plain(scale, accumulated)
        torch.testing.assert_close(logits, reference, atol=1e-4, rtol=1e-4)
        states.append(batch)
        embeddings = quantizer.lookup(logits.argmax(dim=-1).unflatten(1, size))
        accumulated = accumulated + F.interpolate(embeddings, size=model.schedule.final, mode="bicubic")
    assert states == [4, 4, 2, 2]


# The way from the command to the first attention.


def test_the_command_is_near_its_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    home, frames = Path(nextscale.__file__).parent, []
    original = SelfAttention.forward

    def forward(self: SelfAttention, *inputs: Any, **options: Any) -> Tensor:
        monkeypatch.setattr(SelfAttention, "forward", original)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(home):
                frames.insert(0, f"{path.relative_to(home)}:{frame.f_code.co_name}")
            frame = frame.f_back
        return original(self, *inputs, **options)

    monkeypatch.setattr(SelfAttention, "forward", forward)
    assert main(["generate", "--spatial-guidance", "0", "--count", "2", "--out", str(tmp_path / "out")]) == 0
    with capsys.disabled():
        print("\n" + " > ".join(frames))
    assert frames[0] == "cli/__init__.py:main" and frames[1] == "cli/generate.py:generate"
    assert len(frames) <= 7
