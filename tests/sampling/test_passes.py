"""The last map drawn in several passes: against a loop written plainly with a fresh forward each pass."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale import TokenPyramid
from nextscale.families.var import VAR
from nextscale.nn.graphs import Graphs, padded
from nextscale.sampling import exact, passes
from nextscale.sampling.draw import filter_logits
from nextscale.sampling.next_scale import Predictor, sample_scales
from nextscale.sampling.noise import gumbel_noise
from nextscale.sampling.passes import CHOICE_TEMPERATURE, least_sure, masked_counts
from nextscale.sampling.step import SamplingConfig, SamplingHook, ScaleSample
from toys import centre, make_baseline, make_pipeline, make_tokenizer, make_transformer, toy_image

CONFIG = SamplingConfig(guidance=2.0, top_k=8, top_p=0.9)
SEEDS = [5, 6, 7]


def model_of(**changes: Any) -> VAR:
    return make_transformer(refinable=True, **changes)


def steps_of(config: SamplingConfig, seeds: list[int], model: VAR | None = None, **options: Any) -> list[ScaleSample]:
    """A batch of classes 0, 1, ...; of one image too."""
    classes, quantizer = torch.arange(len(seeds)), make_tokenizer().quantizer
    return list(sample_scales(model or model_of(), quantizer, classes, seeds=seeds, config=config, **options))


def tokens_of(*given: Any, **options: Any) -> Tensor:
    return torch.cat([step.tokens.flatten(1) for step in steps_of(*given, **options)], dim=1)


@torch.no_grad()
def written_plainly(model: VAR, config: SamplingConfig, label: int, seed: int) -> tuple[Tensor, list[Tensor]]:
    """Tokens of one image (1, L), and those known after each pass, -1 elsewhere; a whole forward for every draw."""
    quantizer, seeds, schedule = make_tokenizer().quantizer, torch.tensor([seed]), model.schedule
    tokens, known = torch.zeros(1, schedule.length, dtype=torch.long), torch.zeros(1, 16, dtype=torch.bool)
    history = []

    def drawn(scale: int, step: int) -> tuple[Tensor, Tensor]:
        latents = VAR.inputs(quantizer, TokenPyramid(tokens, schedule), known)
        given, free = (model(latents, torch.tensor([one]), known)[:, schedule.slice(scale)] for one in (label, 3))
        strength = config.guidance * scale / 3 if scale < (config.guided_scales or 4) else 0
        logits = ((1 + strength) * given - strength * free) / config.at(scale).temperature
        kept = filter_logits(logits, top_k=config.top_k, top_p=config.top_p)
        return logits, (kept + gumbel_noise(seeds, step, *logits.shape[1:])).argmax(dim=-1)

    for scale in range(3):
        tokens[:, schedule.slice(scale)] = drawn(scale, scale)[1]
    last = schedule.slice(3)
    for number in range(config.refine_steps):
        logits, chosen = drawn(3, 3 + number)
        tokens[:, last] = torch.where(known, tokens[:, last], chosen)
        sure = logits.log_softmax(dim=-1)[0, torch.arange(16), chosen[0]]
        noise = gumbel_noise(seeds, 3 + number, 1, 16, stream=2**20)[0, 0]
        sure = sure + 4.5 * (1 - (number + 1) / config.refine_steps) * noise
        count = masked_counts(16, config.refine_steps)[number]
        for place in sorted(range(16), key=lambda place: float(sure[place]), reverse=True):
            if (~known).sum() > count and not known[0, place]:
                known[0, place] = True
        history.append(torch.where(known, tokens[:, last], -1))
    return tokens, history


class Recorded(SamplingHook):
    """What the last map's passes know and draw."""

    watches = True

    def __init__(self) -> None:
        self.predicted, self.drawn = 0, []

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        self.predicted += 1
        return logits

    def tokens(self, scale: int, tokens: Tensor) -> Tensor:
        if scale == 3:
            self.drawn.append(tokens.flatten(1))
        return tokens


@pytest.mark.parametrize("attention", ["causal", "scale"])
@pytest.mark.parametrize("changes", [{}, {"guidance": 0.0}, {"guided_scales": 2, "temperatures": (2.0, 1.0, 0.7)}])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_passes_are_those_of_a_loop_written_plainly(count: int, changes: dict[str, Any], attention: str) -> None:
    model, config = model_of(attention=attention), replace(CONFIG, refine_steps=count, **changes)
    plain = [written_plainly(model, config, label, seed) for label, seed in enumerate(SEEDS)]
    expected = torch.cat([tokens for tokens, _ in plain])
    hook = Recorded()
    steps = steps_of(config, SEEDS, model, hook=hook)
    assert [step.scale for step in steps] == [0, 1, 2, 3] and hook.predicted == 3 + count
    assert torch.equal(torch.cat([step.tokens.flatten(1) for step in steps], dim=1), expected)
    assert torch.equal(tokens_of(config, SEEDS[:1], model), expected[:1]), "without the batch"
    pyramid = TokenPyramid(expected, model.schedule)
    torch.testing.assert_close(steps[-1].accumulated, make_tokenizer().quantizer.decode(pyramid).detach())
    for number, left in enumerate(masked_counts(16, count)):
        known = torch.cat([history[number] for _, history in plain])
        assert ((known < 0).sum(dim=1) == left).all()
        for later in hook.drawn[number:]:
            assert torch.equal(later[known >= 0], known[known >= 0]), "what is known is never changed"


def test_one_pass_is_the_ordinary_draw() -> None:
    one = replace(CONFIG, refine_steps=1)
    for seeds in (SEEDS, SEEDS[:1]):
        assert torch.equal(tokens_of(one, seeds), tokens_of(CONFIG, seeds))
        many = tokens_of(replace(CONFIG, refine_steps=3), seeds)
        assert torch.equal(many[:, :14], tokens_of(CONFIG, seeds)[:, :14])
        assert not torch.equal(many, tokens_of(CONFIG, seeds))


def test_more_passes_than_tokens_draw_one_at_a_time() -> None:
    hook = Recorded()
    many = tokens_of(replace(CONFIG, refine_steps=99), [5], hook=hook)
    assert hook.predicted == 3 + 16
    assert torch.equal(many, tokens_of(replace(CONFIG, refine_steps=16), [5]))


def test_the_cache_holds_the_last_map_once() -> None:
    model, quantizer = model_of(), make_tokenizer().quantizer
    predictors: list[Predictor] = []

    class Kept(Predictor):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            predictors.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextscale.sampling.next_scale.Predictor", Kept)
        config = replace(CONFIG, refine_steps=4)
        list(sample_scales(model, quantizer, torch.tensor([1]), seeds=[3], config=config))
    (predictor,) = predictors
    assert predictor.cache is not None and (predictor.cache.end, predictor.cache.parts) == (30, 4)


class NoisyBatches(VAR):
    """Batches move logits by far more than they really do."""

    def classify(self, x_BLC: Tensor) -> Tensor:
        logits = super().classify(x_BLC)
        return logits if len(logits) == 1 else logits + 0.3 * (torch.rand_like(logits) - 0.5)


@pytest.mark.parametrize("attention", ["causal", "scale"])
def test_near_ties_also_in_what_is_kept_are_decided_without_the_batch(
    monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    model, config = model_of(attention=attention), SamplingConfig(guidance=2.0, top_k=0, top_p=0.0, refine_steps=4)
    noisy, seeds = NoisyBatches(model.config), list(range(6))
    noisy.load_state_dict(model.state_dict())
    labels, quantizer = torch.arange(6) % 3, make_tokenizer().quantizer

    def drawn(images: slice) -> Tensor:
        torch.manual_seed(0)
        steps = sample_scales(noisy.eval(), quantizer, labels[images], seeds=seeds[images], config=config)
        return torch.cat([step.tokens.flatten(1) for step in steps], dim=1)

    alone = torch.cat([drawn(slice(image, image + 1)) for image in range(6)])
    assert not torch.equal(drawn(slice(0, 6)), alone), "they differ by more than near ties are taken to"
    monkeypatch.setattr(exact, "NEAR_TIE", 0.5)
    assert torch.equal(drawn(slice(0, 6)), alone)


def test_an_image_is_decided_without_the_batch_where_what_is_kept_is_a_near_tie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tokens that are beyond doubt: at one position likely beyond doubt too, at another one of two."""
    logits = torch.zeros(3, 16, 32)
    logits[..., 3] = 40
    logits[:2, 1, 4] = 40
    logits[1, :, 4] = 40
    logits[1, 0, 4] = 0
    alone: list[int] = []

    def without_batch(self: exact.ExactDraw, image: int, again: tuple[Tensor, ...]) -> Tensor:
        alone.append(image)
        return logits[image : image + 1]

    monkeypatch.setattr(exact.ExactDraw, "without_batch", without_batch)
    seeds, config = torch.tensor([1, 2, 3]), SamplingConfig(guidance=0.0, top_k=0, top_p=0.0, refine_steps=2)
    first = exact.ExactDraw(lambda image: lambda *given: logits, seeds, config, 0)
    quantizer = make_tokenizer().quantizer
    draw = exact.ExactInPasses(first, first, lambda *given: logits, quantizer, seeds, config, 0, SamplingHook())
    everything, map_ = torch.ones(3, 16, dtype=torch.bool), quantizer.zeros(3)
    for left, ties in ((15, [0, 2]), (1, [1, 2]), (0, [])):
        alone.clear()
        draw.decide(3, passes.Pass(step=3, left=left, noise=0.0), logits, everything, (map_,))
        assert alone == ties


def test_graphs_are_scale_by_scale() -> None:
    model, config = model_of().to(torch.bfloat16), replace(CONFIG, refine_steps=3)
    labels, seeds = torch.tensor([2, 0, 1]), torch.tensor(SEEDS)
    quantizer = make_tokenizer().quantizer
    expected = list(sample_scales(model, quantizer, padded(labels, 4), seeds=padded(seeds, 4), config=config))
    keys: list[Any] = []

    class Counted(Graphs):
        def __call__(self, key: Any, function: Any, *inputs: Tensor) -> list[Tensor]:
            keys.append(key)
            return super().__call__(key, function, *inputs)

    model.graphs = Counted(capture=False)
    for one in (config, CONFIG, replace(config, refine_steps=2)):
        found = list(sample_scales(model, quantizer, labels, seeds=seeds, config=one))
        if one == config:
            assert all(torch.equal(a.tokens, b.tokens[:3]) for a, b in zip(found, expected, strict=True))
    assert len(set(keys)) == len(keys) == 3


@pytest.mark.gpu
def test_on_cuda_graphs_draw_the_tokens_of_kernels_started_one_by_one() -> None:
    graphed, plain = (make_pipeline(refinable=True).to(torch.device("cuda"), torch.bfloat16) for _ in range(2))
    plain.use_graphs(False)
    expected = plain.generate([0, 1, 2], seeds=range(8), batch_size=8, refine_steps=3)
    for _ in range(3):
        found = graphed.generate([0, 1, 2], seeds=range(8), batch_size=8, refine_steps=3)
        assert torch.equal(found.tokens.packed, expected.tokens.packed)
    assert graphed.transformer.graphs.capture and graphed.transformer.graphs.kept


class Kept(SamplingHook):
    """Code 7 at the first half of the last map."""

    def tokens(self, scale: int, tokens: Tensor) -> Tensor:
        return tokens if scale < 3 else torch.cat([torch.full_like(tokens[:, :2], 7), tokens[:, 2:]], dim=1)


def test_tokens_of_a_hook_stay_and_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = passes.known_codes

    def recording(quantizer: Any, tokens: Tensor, known: Tensor) -> Tensor:
        seen.append((tokens, known))
        return original(quantizer, tokens, known)

    monkeypatch.setattr(passes, "known_codes", recording)
    *_, last = steps_of(replace(CONFIG, refine_steps=3), SEEDS, hook=Kept())
    assert (last.tokens[:, :2] == 7).all() and not (last.tokens[:, 2:] == 7).all()
    assert len(seen) == 2
    for tokens, known in seen:
        assert (tokens[:, :2] == 7).all() and known[:, :2].any()
        assert torch.equal(tokens[known], last.tokens[known])


@pytest.mark.parametrize("method", ["evidence", "blend", "embeddings"])
def test_edits_take_them(method: str) -> None:
    pipeline, image, mask = make_pipeline(refinable=True), toy_image(1, 0), centre(16, 16)

    def made(**settings: Any) -> Tensor:
        return pipeline.inpaint(image, mask, classes="red", seeds=[3, 4], method=method, **settings).tokens.packed

    assert torch.equal(made(refine_steps=1), made())
    assert torch.equal(made(refine_steps=3)[:, :14], made()[:, :14])
    assert not torch.equal(made(refine_steps=3), made())


def test_the_least_sure_are_drawn_again() -> None:
    sure, masked = torch.tensor([[0.5, -9.0, 0.1, 3.0]]), torch.tensor([[True, False, True, True]])
    assert least_sure(sure, masked, 2).tolist() == [[True, False, True, False]]
    assert not least_sure(sure, masked, 0).any()
    assert CHOICE_TEMPERATURE * (1 - 1 / 1) == passes.passes_of(3, 16, 1)[0].noise == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refine_steps": 0}, "refine_steps must be at least 1, got 0; 1 is off"),
        ({"refine_steps": 2, "smooth": True}, "leave out smooth, or set refine_steps to 1"),
    ],
)
def test_wrong_values_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**settings)


def test_models_that_were_not_trained_for_it_refuse_it() -> None:
    with pytest.raises(ValueError, match="refine_steps 2: this model draws its last map at once; .* masked_last"):
        make_pipeline().generate(["red"], refine_steps=2)
    with pytest.raises(ValueError, match="refine_steps 2: this model draws its last map at once"):
        make_pipeline().inpaint(toy_image(0, 0), centre(16, 16), refine_steps=2)
    for kind in ("raster", "rq", "maskgit", "dit"):
        with pytest.raises(ValueError, match="refine_steps are next-scale prediction's"):
            make_baseline(kind).generate(["red"], refine_steps=2)


def test_a_model_has_a_default() -> None:
    pipeline = make_pipeline(refinable=True)
    pipeline.config = replace(pipeline.config, refine_steps=3)
    assert pipeline.sampling().refine_steps == 3 and pipeline.sampling(refine_steps=1).refine_steps == 1
    found, asked = pipeline.generate(["red"], seeds=[1]), make_pipeline(refinable=True).generate(
        ["red"], seeds=[1], refine_steps=3
    )  # fmt: skip
    assert torch.equal(found.tokens.packed, asked.tokens.packed)
