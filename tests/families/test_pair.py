"""Two models in turn: each scale is what its model says of the tokens so far, at the cost that is stated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nextscale import VARPipeline
from nextscale.bench.cost import sampled_flops, sampling_steps
from nextscale.catalogue import find_model
from nextscale.checkpoint import ModelConfig
from nextscale.cli import main
from nextscale.conditions import ClassLabels
from nextscale.evaluation.features import identity
from nextscale.families import family
from nextscale.families.pair import ModelPair
from nextscale.nn.attention import KeyValueCache
from nextscale.nn.graphs import Graphs
from nextscale.sampling.next_scale import Predictor, SamplingConfig, SamplingHook, sample_scales
from nextscale.sampling.rejection import Rejection
from toys import CLASS_NAMES, TEXT, centre, make_pipeline, make_tokenizer, make_transformer, tokenizer_config, toy_image

SCALES = 4
SEEDS = list(range(6))
SETTINGS: list[dict[str, Any]] = [
    {},
    {"guided_scales": 2},
    {"spatial_guidance": 0.3, "temperatures": (1.2, 0.8)},
    {"guidance": 0.0, "top_k": 0, "top_p": 0.0},
]


def pair_of(switch: int, seed: int = 1, *, other: dict[str, Any] | None = None, **changes: Any) -> VARPipeline:
    """Two toys of other depths with the same tokenizer."""
    refiner = make_pipeline(0, **changes)
    refiner.transformer = make_transformer(seed, **{"depth": 3} | changes | (other or {}))
    return make_pipeline(0, **changes).with_refiner(refiner, switch)


def tokens_of(pipeline: VARPipeline, **settings: Any) -> Tensor:
    return pipeline.generate(["red", "blue", None], seeds=SEEDS, **settings).tokens.packed


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("switch", range(SCALES + 1))
def test_a_model_and_itself_draw_its_own_tokens(switch: int, settings: dict[str, Any]) -> None:
    one = make_pipeline()
    assert torch.equal(tokens_of(one.with_refiner(make_pipeline(), switch), **settings), tokens_of(one, **settings))


def test_all_scales_or_none_are_one_model_s_own_tokens() -> None:
    whole, none = pair_of(SCALES), pair_of(0)
    alone = make_pipeline()
    assert torch.equal(tokens_of(whole), tokens_of(alone))
    alone.transformer = none.transformer.refiner
    assert torch.equal(tokens_of(none), tokens_of(alone)) and not torch.equal(tokens_of(none), tokens_of(whole))


@pytest.mark.parametrize("attention", [("causal", "causal"), ("scale", "causal"), ("causal", "scale")])
@pytest.mark.parametrize("guided_scales", [0, 2, 3])
def test_each_scale_is_what_its_model_says_of_the_tokens_so_far(attention: tuple[str, str], guided_scales: int) -> None:
    """With known tokens put in place of the drawn ones, logits are those of teacher forcing, model by model."""
    pair = pair_of(2, attention=attention[0], other={"attention": attention[1]})
    pyramid = pair.tokenizer.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    seen: list[Tensor] = []

    class Forced(SamplingHook):
        def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
            seen.append(logits)
            return logits

        def tokens(self, scale: int, tokens: Tensor) -> Tensor:
            return pyramid[scale]

    settings: dict[str, Any] = {"guidance": 1.5, "guided_scales": guided_scales}
    list(pair.generate_steps([0, 2], seeds=[0, 1], hook=Forced(), **settings))
    given, free = pair.logits(pyramid, [0, 2]), pair.logits(pyramid, None)
    for scale, logits in enumerate(seen):
        span = pair.schedule.slice(scale)
        strength = 1.5 * scale / 3 if scale < (guided_scales or SCALES) else 0.0
        expected = (1 + strength) * given[:, span] - strength * free[:, span]
        torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-3)
    draft = make_pipeline(attention=attention[0]).logits(pyramid, [0, 2])
    assert torch.equal(given[:, :5], draft[:, :5]) and not torch.equal(given[:, 5:], draft[:, 5:])


@pytest.mark.parametrize("settings", [{}, {"guided_scales": 2}, {"refine_steps": 3}])
def test_an_image_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    pair = pair_of(2, other={"refinable": True})
    together = tokens_of(pair, **settings)
    alone = [pair.generate([c], seeds=[s], **settings) for c, s in zip(["red", "blue", None] * 2, SEEDS, strict=True)]
    assert torch.equal(together, torch.cat([one.tokens.packed for one in alone]))
    monkeypatch.setattr("nextscale.sampling.exact.NEAR_TIE", 1e9)  # every token is drawn from isolated logits
    assert torch.equal(together, tokens_of(pair, **settings))


def test_the_last_map_is_refined_by_the_model_that_draws_it() -> None:
    pair = pair_of(2, other={"refinable": True})
    alone = make_pipeline()
    alone.transformer = pair.transformer.refiner
    again = alone.with_refiner(alone, 2)
    assert torch.equal(tokens_of(again, refine_steps=3), tokens_of(alone, refine_steps=3))
    with pytest.raises(ValueError, match="this model draws its last map at once"):
        tokens_of(pair_of(SCALES, other={"refinable": True}), refine_steps=3)


def test_the_first_model_s_keys_are_given_up_and_only_as_many_as_it_needs() -> None:
    pair = pair_of(2).transformer
    predict = pair.predictor(ClassLabels(torch.tensor([2]), 3), [0.0] * SCALES)

    def cache() -> KeyValueCache:
        assert isinstance(predict.predict, Predictor) and predict.predict.cache is not None
        return predict.predict.cache

    assert cache().keys[0].shape[2] == 1 + 4
    quantizer = make_tokenizer().quantizer
    for scale in range(3):
        predict(scale, quantizer.zeros(1))
    assert len(cache().keys) == 3, "the refiner's layers"
    assert (cache().end, cache().parts) == (14, 1)


def test_prompts_go_to_both() -> None:
    pair, alone = pair_of(2, text=TEXT), make_pipeline(text=TEXT)
    same = alone.with_refiner(alone, 2)
    wanted: dict[str, Any] = {"seeds": [1, 2], "negative_prompt": "blue"}
    expected = alone.generate(["a red heart", "cat"], **wanted).tokens.packed
    assert torch.equal(same.generate(["a red heart", "cat"], **wanted).tokens.packed, expected)
    assert not torch.equal(pair.generate(["a red heart", "cat"], **wanted).tokens.packed, expected)


def test_edits_rejection_and_likelihoods_are_of_the_pair() -> None:
    image, mask = toy_image(0, 0), centre(16, 16)
    one, pair = make_pipeline(), pair_of(2)
    same = one.with_refiner(one, 2)
    edits: list[dict[str, Any]] = [{}, {"keep_scales": 1}, {"guided_scales": 2}]
    for settings in edits:
        expected = one.inpaint(image, mask, seeds=[3], **settings).images[0].tobytes()
        assert same.inpaint(image, mask, seeds=[3], **settings).images[0].tobytes() == expected
        assert pair.inpaint(image, mask, seeds=[3], **settings).images[0].tobytes() != expected
    judged = [p.generate(["red"], seeds=[1], rejection=Rejection(candidates=2)).scores for p in (one, same, pair)]
    assert judged[0] == pytest.approx(judged[1], rel=1e-4) and judged[0] != pytest.approx(judged[2], rel=1e-4)


def test_low_precisions_reach_both_models_and_graphs_are_its_own() -> None:
    pair = pair_of(2).to(torch.device("cpu"), torch.bfloat16)
    assert pair.precision == "bf16" and {one.dtype for one in pair.transformer.models} == {torch.bfloat16}
    assert {one.head.bias.dtype for one in pair.transformer.models} == {torch.float32}
    expected = tokens_of(pair, batch_size=2)
    pair.transformer.graphs = graphs = Graphs(capture=False)
    assert torch.equal(tokens_of(pair, batch_size=2), expected)
    assert all(model.graphs is None for model in pair.transformer.models) and graphs is pair.transformer.graphs
    int8 = pair_of(2).to(torch.device("cpu"), torch.int8)
    assert int8.precision == "int8" and tokens_of(int8).shape == (6, 30)


@pytest.mark.parametrize(
    ("switch", "guided_scales", "refine_steps"),
    [(0, 2, 1), (1, 0, 3), (1, 1, 1), (1, 2, 1), (2, 1, 3), (2, 3, 1), (3, 0, 1), (3, 3, 3), (4, 2, 1), (4, 4, 3)],
)
def test_flops_are_those_that_torch_counts(switch: int, guided_scales: int, refine_steps: int) -> None:
    pair = pair_of(switch, refinable=True).to(torch.device("cpu"), torch.float32)
    draft, refiner = (make_transformer(depth=depth, refinable=True).bfloat16() for depth in (2, 3))
    model = ModelPair.of(draft, refiner, switch)
    sampling = SamplingConfig(top_k=0, top_p=0.0, guided_scales=guided_scales, refine_steps=refine_steps)
    with FlopCounterMode(display=False) as counter:
        list(sample_scales(model, pair.tokenizer.quantizer, torch.tensor([1]), seeds=[0], config=sampling))
    counts = counter.get_flop_counts()["Global"]
    counted = sum(flops for operator, flops in counts.items() if "convolution" not in str(operator))  # phi aside
    found = sampled_flops(pair, sampling)
    assert found.total - found.decoder == pytest.approx(counted, rel=1e-6)
    assert sampling_steps(pair.transformer.config, refine_steps) == SCALES + refine_steps - 1


def test_its_size_and_cache() -> None:
    pair, one = pair_of(2), make_pipeline()
    both = [family("var").parameters(model) for model in pair.transformer.models]
    assert pair.family.parameters(pair.transformer) == sum(both)
    each = [family("var").cache_bytes(model.config, torch.float32) for model in pair.transformer.models]
    assert pair.family.cache_bytes(pair.transformer.config, torch.float32) == max(each[0] * 5 // 30, each[1]) == each[1]
    alone = pair_of(SCALES)
    assert alone.family.cache_bytes(alone.transformer.config, torch.float32) == each[0]
    assert identity(pair.transformer) != identity(pair_of(3).transformer), "another switch is another model"
    assert one.family.kind == "var" and pair.family.kind == "pair" and pair.family.yields(pair.transformer.config) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 5}, "two models in turn need the same classes: one has 3, the other 5"),
        ({"scales": ((1, 1), (4, 4))}, "need the same schedule: one has 1,2,3,4, the other 1,4"),
        ({"text": TEXT, "classes": 0}, "need the same classes: one has 3, the other 0"),
    ],
)
def test_models_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelPair.of(make_transformer(), make_transformer(**changes), 1)


def test_pipelines_that_do_not_fit_are_refused() -> None:
    one, other = make_pipeline(), make_pipeline(1)
    with pytest.raises(ValueError, match="need the same tokenizer, and theirs differ in their codes"):
        one.with_refiner(other, 2)
    with pytest.raises(ValueError, match="switch must be between 0 and 4, all scales, got 5"):
        pair_of(5)
    with pytest.raises(ValueError, match="these are pair and var"):
        pair_of(2).with_refiner(one, 2)
    named = VARPipeline(one.tokenizer, one.transformer, ModelConfig(class_names=CLASS_NAMES[::-1]))
    with pytest.raises(ValueError, match="need the same classes; theirs have other names"):
        one.with_refiner(named, 2)
    with pytest.raises(ValueError, match="need the same precision: one has fp32, the other bf16"):
        one.with_refiner(make_pipeline().to(torch.device("cpu"), torch.bfloat16), 2)


def test_a_pair_has_a_name_and_commands_take_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    image_folder: Callable[..., Path],
) -> None:
    monkeypatch.setattr("nextscale.bench.speed.gemm_rate", lambda *_: 1.0)
    one, other = tmp_path / "one", tmp_path / "other"
    pair = pair_of(2)
    make_pipeline().save_pretrained(one)
    refiner = VARPipeline(pair.tokenizer, pair.transformer.refiner, make_pipeline().config)
    refiner.save_pretrained(other)
    name = f"{one}+{other}@2"
    loaded = VARPipeline.from_pretrained(name, dtype="fp32")
    assert torch.equal(tokens_of(loaded), tokens_of(pair)) and find_model(name).config().kind == "pair"
    loaded.save_pretrained(tmp_path / "both")
    assert torch.equal(tokens_of(VARPipeline.from_pretrained(tmp_path / "both", dtype="fp32")), tokens_of(pair))
    asked = ["generate", "--draft", str(one), "--refine", str(other), "--switch", "2", "--count", "2"]
    assert main([*asked, "--out", str(tmp_path / "drawn"), "--precision", "fp32"]) == 0
    manifest = (tmp_path / "drawn" / "manifest.jsonl").read_text().splitlines()
    assert len(manifest) == 2 and name in manifest[0]
    capsys.readouterr()
    for flags, message in {
        ("--draft", "a", "--switch", "2"): "refine is missing",
        ("--draft", "a", "--refine", "b"): "switch is missing",
        ("--draft", "a", "--refine", "b", "--switch", "2", "--model", "c"): "not both",
        ("--draft", "demo", "--refine", "demo", "--switch", "-1"): "switch must be at least 0, got -1",
        ("--draft", "demo", "--refine", "demo", "--switch", "99"): "switch must be between 0 and 7",
        ("--draft", "demo", "--refine", "demo-raster", "--switch", "1"): "these are var and raster",
    }.items():
        assert main(["generate", *flags, "--out", str(tmp_path / "none")]) == 2
        assert message in capsys.readouterr().err
    shown = ["bench", "--draft", str(one), "--refine", str(other), "--switch", "2", "--guided-scales", "2"]
    assert main([*shown, "--rounds", "1", "--batch-sizes", "1"]) == 0
    assert "guided-scales 2" in " ".join(capsys.readouterr().out.split())
    assert main(["info", name]) == 0 and "kind" in capsys.readouterr().out
    data = image_folder()
    for words, message in {
        ("train", "neon"): "tune each by itself",
        ("train", "var", "--tokenizer", "demo", "--preset", "tiny", "--init-from", name): "by two models in turn, not",
    }.items():
        flags = ["--model", name] if words[1] == "neon" else []
        assert main([*words, *flags, "--data", str(data), "--out", str(tmp_path / "none")]) == 2
        assert message in capsys.readouterr().err


def test_random_models_share_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextscale.catalogue.VQVAEConfig", lambda scales: tokenizer_config())
    one, other = (find_model(f"random:{name}").tokenizer().state_dict() for name in ("tiny", "var-d16"))
    assert all(torch.equal(one[name], other[name]) for name in one)
