"""Models of prompts: any text, cached keys and values, guidance, and nothing of padding or of the batch."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.conditions import TextPrompts
from nextscale.families import family, raster, rq
from nextscale.nn.packed import prepare
from nextscale.nn.text import TextEncoder
from nextscale.pyramid import TokenPyramid
from nextscale.sampling import next_scale
from nextscale.sampling.draw import draw_next
from nextscale.sampling.likelihood import paired_log_probabilities, teacher_inputs
from nextscale.sampling.step import SamplingConfig, pyramid_of
from nextscale.text import text_prompts
from toys import FAMILY_SCALES, TEXT, make_tokenizer, make_transformer

ODD = ["", "\x00", "\u2603\u2603", "\u05dc\u05d1 \u05d0\u05d3\u05d5\u05dd", "word " * 2000, "x" * 10_000, "..."]
KINDS = ("var", "raster", "rq", "maskgit", "dit")


def prompts(*texts: str, **options: Any) -> TextPrompts:
    return text_prompts(TEXT, texts, **options)


def toy(kind: str) -> Any:
    """A model whose weights all matter, and its tokenizer."""
    one, scales = family(kind), FAMILY_SCALES[kind]
    settings: dict = {"depth": 3, "heads": 1, "scales": scales, "latent_channels": 8, "classes": 0, "text": TEXT}
    model = one.network(one.config(**settings | ({} if kind == "dit" else {"codebook_size": 32})))
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25 if parameter.ndim > 1 else 0.1)
    return model.eval(), make_tokenizer(scales=scales)


@torch.no_grad()
def test_any_prompt_has_a_vector(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(TEXT, 128)
    encoder.initialise()
    with caplog.at_level(logging.WARNING, logger="nextscale"):
        wanted = prompts(*ODD, "one two three four five six", tell=True)
    told = [record.getMessage() for record in caplog.records]
    assert told[0].endswith("the model reads 5 words; 1995 words were left out") and "412 words were" in told[1]
    assert told[2] == "prompt 'one two three four five six'...: the model reads 5 words; 1 word was left out"
    vectors, tokens, mask = encoder(wanted.tokens, wanted.mask)
    assert vectors.shape == (8, 128) and tokens.shape == (8, 6, 64) and bool(vectors.isfinite().all())
    assert mask.sum(dim=1).tolist() == [1, 1, 3, 3, 6, 6, 1, 6]
    assert torch.equal(vectors[0], vectors[1]) and torch.equal(vectors[0], vectors[6]), "no words: the empty prompt"
    assert not torch.equal(vectors[2], vectors[0])
    short = prompts("one two three four five")
    torch.testing.assert_close(encoder(short.tokens, short.mask)[0][0], vectors[7])


@torch.no_grad()
def test_padding_is_not_seen_and_order_is() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(TEXT, 64)
    encoder.initialise()
    wanted = prompts("blue cat", "cat blue")
    before, _, _ = encoder(wanted.tokens, wanted.mask)
    wanted.tokens[:, 2:] = 7  # behind the mask
    torch.testing.assert_close(encoder(wanted.tokens, wanted.mask)[0], before)
    assert not torch.allclose(before[0], before[1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_model_ignores_its_cross_attention(kind: str) -> None:
    model, _ = toy(kind)
    model.initialise()
    blocks = model.blocks if kind != "rq" else model.spatial.blocks
    assert [block.cross is not None for block in blocks] == [True, False, True]
    assert all(not block.cross.proj.weight.any() and not block.cross.proj.bias.any() for block in blocks[::2])
    assert kind != "rq" or all(block.cross is None for block in model.by_depth.blocks)
    assert not any("class_embedding" in name for name in model.state_dict())


@pytest.mark.parametrize("kind", ["var", "raster", "rq"])
def test_guided_sampling_is_teacher_forcing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = toy(kind)
    seen: list[Tensor] = []

    def recording(logits: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(logits)
        return draw_next(logits, *args, **options)

    monkeypatch.setattr({"raster": raster, "rq": rq, "var": next_scale}[kind], "draw_next", recording)
    if kind == "var":
        monkeypatch.setattr(next_scale, "ExactDraw", lambda alone, *given: next_scale.plain_draw(*given))
    wanted = prompts("a red heart", "cat", negative="blue")
    config = SamplingConfig(guidance=1.5, top_k=0, top_p=0.0)
    steps = list(family(kind).sample(model, tokenizer, wanted, seeds=(0, 1), config=config))
    inputs = teacher_inputs(model, tokenizer.quantizer, pyramid_of(steps, model.schedule))
    with torch.no_grad():
        conditional, unwanted = model(inputs, prompts("a red heart", "cat")), model(inputs, prompts("blue", "blue"))
    strength = torch.full((conditional.shape[1], 1), 1.5)
    sampled = torch.cat(seen, dim=1)
    if kind == "rq":
        sampled = sampled.unflatten(1, (16, 3)).transpose(1, 2).flatten(1, 2)
    if kind == "var":
        strength = (model.levels / 3 * 1.5)[:, None]
    torch.testing.assert_close(sampled, (1 + strength) * conditional - strength * unwanted, atol=2e-3, rtol=1e-3)
    again = list(family(kind).sample(model, tokenizer, wanted[1:], seeds=(1,), config=config))
    assert torch.equal(again[-1].tokens[0], steps[-1].tokens[1]), "whatever the batch"
    other = list(family(kind).sample(model, tokenizer, prompts("dog", negative="blue"), seeds=(1,), config=config))
    assert not torch.equal(again[-1].tokens, other[-1].tokens)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["maskgit", "dit"])
def test_guidance_doubles_prompts(kind: str) -> None:
    model, tokenizer = toy(kind)
    wanted = prompts("a red heart", "cat", negative="blue")
    both = wanted.with_unconditional()
    one, other = prompts("a red heart", "cat"), prompts("blue", "blue")
    generator = torch.Generator().manual_seed(0)
    if kind == "dit":
        noisy, times = torch.randn(2, 8, 4, 4, generator=generator), torch.tensor([3, 700])
        found = model(torch.cat([noisy, noisy]), torch.cat([times, times]), both)
        expected = torch.cat([model(noisy, times, one), model(noisy, times, other)])
    else:
        latents, masked = torch.randn(2, 16, 8, generator=generator), torch.arange(32).view(2, 16) % 3 > 0
        found = model(torch.cat([latents, latents]), torch.cat([masked, masked]), both)
        expected = torch.cat([model(latents, masked, one), model(latents, masked, other)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[:2], found[2:], atol=1e-2)
    config = SamplingConfig(guidance=1.0, top_k=0, top_p=0.0, steps=2)
    *_, last = family(kind).sample(model, tokenizer, wanted, seeds=(0, 1), config=config)
    assert bool(last.accumulated.isfinite().all())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_prepared_models_read_prompts(dtype: torch.dtype) -> None:
    model, quantizer = make_transformer(text=TEXT), make_tokenizer().quantizer
    wanted = prompts("a red heart", "cat")
    plain = model.condition(wanted)
    try:
        used = prepare(model, torch.device("cpu"), dtype)
    except ValueError as error:
        pytest.skip(str(error))
    found = model.condition(wanted)
    assert found.start_BC.dtype == used
    torch.testing.assert_close(found.start_BC.float(), plain.start_BC, atol=0.1, rtol=0.1)
    *_, last = next_scale.sample_scales(model, quantizer, wanted, seeds=(0, 1), config=SamplingConfig())
    assert bool(last.accumulated.isfinite().all())


@torch.no_grad()
def test_likelihood_without_a_prompt_knows_no_negative_one() -> None:
    model, tokenizer = toy("var")
    tokens = TokenPyramid(torch.randint(32, (2, 30)), tokenizer.schedule)
    plain, negative = prompts("red", "blue"), prompts("red", "blue", negative="ugly")
    expected = paired_log_probabilities(model, tokenizer.quantizer, tokens, plain)
    found = paired_log_probabilities(model, tokenizer.quantizer, tokens, negative)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert not torch.equal(found[0], found[1])
