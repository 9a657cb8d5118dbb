"""Log-probabilities of tokens against the sampler's own steps."""

import math

import pytest
import torch

from nextscale.conditions import ClassLabels
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.likelihood import paired_log_probabilities, token_log_probabilities
from nextscale.sampling.next_scale import Predictor
from toys import make_tokenizer, make_transformer


def test_log_probabilities_are_those_of_generation(pipeline: VARPipeline) -> None:
    model, quantizer = pipeline.transformer, pipeline.tokenizer.quantizer
    tokens = TokenPyramid(torch.randint(32, (3, pipeline.schedule.length)), pipeline.schedule)
    classes = torch.tensor([0, 2, model.config.unconditional])
    ours, right = token_log_probabilities(model, quantizer, tokens, classes)

    guided = Predictor(model, ClassLabels(classes, 3), [0.0] * len(pipeline.schedule))
    accumulated, slow, best = quantizer.zeros(3), [], []
    states = quantizer.states(tokens)
    for scale in range(len(pipeline.schedule)):
        probabilities = guided(scale, accumulated).softmax(dim=-1)
        picked = tokens[scale].flatten(1)
        slow.append(probabilities.gather(-1, picked[..., None]).squeeze(-1).log())
        best.append(probabilities.argmax(dim=-1) == picked)
        accumulated = next(states).accumulated
    assert torch.allclose(ours, torch.cat(slow, dim=1), atol=1e-4)
    assert torch.equal(right, torch.cat(best, dim=1))
    assert torch.equal(pipeline.log_likelihood(tokens, [0, 2, None]), ours)


def test_classes_and_pairs_agree_with_them(pipeline: VARPipeline) -> None:
    model, quantizer = pipeline.transformer, pipeline.tokenizer.quantizer
    tokens = pipeline.generate([0, 1, 2, 1], seeds=range(4)).tokens
    table = pipeline.class_log_likelihoods(tokens)
    assert table.shape == (4, 3)
    for label in range(3):
        alone = pipeline.log_likelihood(tokens, label).double().sum(dim=1)
        assert torch.allclose(table[:, label], alone, rtol=1e-6)
    labels = torch.tensor([0, 1, 2, 1])
    given, free = paired_log_probabilities(model, quantizer, tokens, labels)
    assert torch.allclose(given.sum(dim=1), table[torch.arange(4), labels], atol=1e-3)
    assert torch.allclose(free, pipeline.log_likelihood(tokens, None).double(), atol=1e-4)


def test_a_head_of_zeros_knows_nothing() -> None:
    model, tokenizer = make_transformer(), make_tokenizer()
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    tokens = TokenPyramid(torch.randint(32, (2, model.schedule.length)), model.schedule)
    ours, _ = token_log_probabilities(model, tokenizer.quantizer, tokens, torch.tensor([0, 1]))
    assert ours.tolist() == [pytest.approx([-math.log(32)] * model.schedule.length)] * 2
