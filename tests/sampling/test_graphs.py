"""Generation as one graph: the same tokens as scale by scale, where nothing has to look into the scales."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale import VARPipeline
from nextscale.conditions import Conditions
from nextscale.families.var import VAR
from nextscale.nn.graphs import Graphs, padded, padded_size
from nextscale.sampling.next_scale import SamplingConfig, SamplingHook, ScaleSample, sample_scales
from nextscale.text import text_prompts
from nextscale.tokenizer.vqvae import VQVAE
from toys import TEXT, make_pipeline, make_tokenizer, make_transformer

CPU = torch.device("cpu")
CONFIG = SamplingConfig(guidance=2.0, top_k=8, top_p=0.9)
PER_SCALE: dict[str, Any] = {"guided_scales": 2, "temperatures": (2.0, 1.0)}


class Counted(Graphs):
    """Graphs without capture that remember the keys and batches of calls."""

    def __init__(self) -> None:
        super().__init__(capture=False)
        self.calls: list[tuple[Any, int]] = []

    def __call__(self, key: Any, function: Any, *inputs: Tensor) -> list[Tensor]:
        self.calls.append((key, len(inputs[0])))
        return super().__call__(key, function, *inputs)


def low_precision(**changes: Any) -> VAR:
    return make_transformer(**changes).to(torch.bfloat16)


def steps_of(
    model: VAR, labels: Tensor | Conditions, seeds: Sequence[int] | Tensor, **settings: Any
) -> list[ScaleSample]:
    settings = {"config": CONFIG} | settings
    return list(sample_scales(model, make_tokenizer().quantizer, labels, seeds=torch.as_tensor(seeds), **settings))


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, **PER_SCALE)])
@pytest.mark.parametrize(("batch", "attention"), [(1, "causal"), (3, "causal"), (4, "causal"), (3, "scale")])
def test_one_graph_is_scale_by_scale_with_a_padded_batch(batch: int, attention: str, config: SamplingConfig) -> None:
    model = low_precision(attention=attention)
    labels, seeds = torch.tensor([2, 0, 1, 3])[:batch], torch.tensor([5, 9, 7, 1])[:batch]
    size = padded_size(batch)
    expected = steps_of(model, padded(labels, size), padded(seeds, size), config=config)
    model.graphs = Counted()
    found = steps_of(model, labels, seeds, config=config)
    assert [count for _, count in model.graphs.calls] == [batch]
    for one, other in zip(found, expected, strict=True):
        assert one.scale == other.scale
        assert torch.equal(one.tokens, other.tokens[:batch])
        assert torch.equal(one.accumulated, other.accumulated[:batch])


def test_each_setting_has_a_graph() -> None:
    model = low_precision()
    model.graphs = graphs = Counted()
    labels, seeds = torch.tensor([0, 1]), [0, 1]
    tokenizer = make_tokenizer()
    others = {"guidance": 1.0}, {"temperature": 0.5}, {"guided_scales": 2}, {"temperatures": (0.5, 1.0)}
    for config in (CONFIG, CONFIG, *(replace(CONFIG, **one) for one in others)):
        for stream in (0, 1):
            steps = sample_scales(
                model, tokenizer.quantizer, labels, seeds=torch.tensor(seeds), config=config, stream=stream
            )
            list(steps)
    assert len({key for key, _ in graphs.calls}) == 10


def test_prompts_go_into_a_graph_and_are_not_baked_in() -> None:
    model, quantizer = low_precision(text=TEXT), make_tokenizer().quantizer
    wanted = text_prompts(TEXT, ["a red heart", "cat", ""], negative="blue")
    expected = steps_of(model, wanted[torch.tensor([0, 1, 2, 2])], [5, 9, 7, 7])
    model.graphs = graphs = Counted()
    found = steps_of(model, wanted, [5, 9, 7])
    others = list(sample_scales(model, quantizer, text_prompts(TEXT, ["cat"]), seeds=torch.tensor([9]), config=CONFIG))
    assert [count for _, count in graphs.calls] == [3, 1] and len({key[2:] for key, _ in graphs.calls}) == 1
    assert all(torch.equal(one.tokens, other.tokens[:3]) for one, other in zip(found, expected, strict=True))
    assert not torch.equal(others[-1].tokens[0], found[-1].tokens[1]), "the negative prompt matters"


class Watching(SamplingHook):
    watches = True


@pytest.mark.parametrize(
    "settings", [{"hook": SamplingHook()}, {"hook": Watching()}, {"config": replace(CONFIG, smooth=True)}]
)
def test_what_looks_into_the_scales_goes_scale_by_scale(settings: dict) -> None:
    model = low_precision()
    model.graphs = Counted()
    steps_of(model, torch.tensor([0, 1]), [0, 1], **settings)
    assert model.graphs.calls == []


def test_images_that_do_not_depend_on_their_batch_go_scale_by_scale() -> None:
    model = make_transformer()
    model.graphs = Counted()
    steps_of(model, torch.tensor([0, 1]), [0, 1])
    assert model.graphs.calls == []
    steps_of(model, torch.tensor([0]), [0])
    assert len(model.graphs.calls) == 1


def test_a_pipeline_makes_the_same_images_with_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, graphed = (make_pipeline().to(CPU, torch.bfloat16) for _ in range(2))
    monkeypatch.setattr(VQVAE, "decoded_at_once", 4)
    shared = graphed.transformer.graphs = graphed.tokenizer.graphs = Counted()
    asked: dict = {"seeds": range(8), "batch_size": 4}
    expected, found = plain.generate([0, 1, None], **asked), graphed.generate([0, 1, None], **asked)
    assert [count for _, count in shared.calls] == [4] * 4  # tokens and images of two batches
    assert torch.equal(found.tokens.packed, expected.tokens.packed)
    assert [one.tobytes() for one in found.images] == [one.tobytes() for one in expected.images]


def cuda_pipeline(dtype: torch.dtype) -> VARPipeline:
    return make_pipeline().to(torch.device("cuda"), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_on_cuda_replays_give_the_tokens_of_kernels_started_one_by_one(dtype: torch.dtype, batch: int) -> None:
    graphed, plain = cuda_pipeline(dtype), cuda_pipeline(dtype).use_graphs(False)
    more = padded_size(batch) - batch
    for first in (0, 100, 200):  # directly, captured, then replayed with other labels and seeds
        seeds, labels = list(range(first, first + batch)), [(first + i) % 3 for i in range(batch)]
        found = graphed.generate(labels, seeds=seeds)
        expected = plain.generate(labels + labels[-1:] * more, seeds=seeds + seeds[-1:] * more)
        assert torch.equal(found.tokens.packed, expected.tokens.packed[:batch])
    graphs = graphed.transformer.graphs
    assert graphs.capture and len(graphs.kept) == 1 + batch.bit_count()  # all scales, and parts of the images


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, PER_SCALE])
def test_on_cuda_images_of_graphs_are_those_without(settings: dict[str, Any]) -> None:
    graphed, plain = cuda_pipeline(torch.bfloat16), cuda_pipeline(torch.bfloat16).use_graphs(False)
    expected = plain.generate([0, 1, 2], seeds=range(8), **settings)
    for _ in range(3):
        found = graphed.generate([0, 1, 2], seeds=range(8), **settings)
        assert [one.tobytes() for one in found.images] == [one.tobytes() for one in expected.images]
    assert len(graphed.tokenizer.graphs.kept) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"guided_scales": 2}])
def test_on_cuda_two_models_in_turn_are_one_graph(settings: dict[str, Any]) -> None:
    def pair() -> VARPipeline:
        refiner = make_pipeline()
        refiner.transformer = make_transformer(1, depth=3)
        return make_pipeline().with_refiner(refiner, 2).to(torch.device("cuda"), torch.bfloat16)

    graphed, plain = pair(), pair().use_graphs(False)
    for first in (0, 100, 200):
        seeds = range(first, first + 4)
        found, expected = (one.generate([0, 1, 2], seeds=seeds, **settings) for one in (graphed, plain))
        assert torch.equal(found.tokens.packed, expected.tokens.packed)
    graphs = graphed.tokenizer.graphs
    assert graphs is graphed.transformer.graphs and graphs is not None and graphs.capture and len(graphs.kept) == 2


@pytest.mark.gpu
def test_on_cuda_memory_does_not_grow() -> None:
    pipeline = cuda_pipeline(torch.bfloat16)
    taken = []
    for call in range(20):
        pipeline.generate([0, 1, 2], seeds=range(1 + 7 * (call % 2)))
        taken.append(torch.cuda.memory_reserved())
    assert pipeline.transformer.graphs.capture and max(taken[4:]) <= taken[3]
