"""Hooks of each method on a toy model: what they keep is what they should keep."""

import pytest
import torch

from nextscale.editing.hooks import METHODS, EvidenceHook
from nextscale.pipeline import VARPipeline
from nextscale.sampling.next_scale import sample_scales
from nextscale.sampling.step import HookChain, SamplingConfig
from toys import pixels, toy_image

PLAIN = SamplingConfig(guidance=0.0, top_k=0, top_p=0.0)


def sampled(pipeline: VARPipeline, method: str, image: torch.Tensor, kept: torch.Tensor, **options: float):
    hook = METHODS[method](pipeline.tokenizer, image, kept)
    for name, value in options.items():
        setattr(hook, name, value)
    model, classes = pipeline.transformer, torch.tensor([1, 2])
    quantizer = pipeline.tokenizer.quantizer
    return list(sample_scales(model, quantizer, classes, seeds=[0, 1], config=PLAIN, hook=hook))


def packed(steps: list) -> torch.Tensor:
    return torch.cat([step.tokens.flatten(1) for step in steps], dim=1)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_kept_is_plain_sampling(pipeline: VARPipeline, method: str) -> None:
    image = pixels(toy_image(0, 0))
    steps = sampled(pipeline, method, image, torch.zeros(1, 1, 4, 4))
    plain = pipeline.generate([1, 2], seeds=[0, 1], config=PLAIN).tokens
    if method == "embeddings":  # the authors' rule takes the first scale from the original whatever the mask
        assert torch.equal(packed(steps)[:, :1], pipeline.tokenizer.encode(image).packed[:, :1].expand(2, 1))
    else:
        assert torch.equal(packed(steps), plain.packed)


def test_the_authors_rule_puts_the_originals_tokens_where_more_than_half_is_kept(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(0, 0))
    kept = torch.zeros(1, 1, 4, 4)
    kept[..., :2] = 1
    steps = sampled(pipeline, "embeddings", image, kept)
    original = pipeline.tokenizer.encode(image)
    for step in steps[1:]:
        size = step.tokens.shape[1:]
        keeps = torch.nn.functional.interpolate(kept, size=size, mode="bilinear")[0, 0] > 0.5
        assert torch.equal(step.tokens[:, keeps], original[step.scale][:, keeps].expand(2, -1))
    assert (steps[-1].tokens != original[3]).any()


def test_blending_follows_the_original_where_it_is_kept(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(0, 0))
    kept = torch.zeros(1, 1, 4, 4)
    kept[..., :2] = 1
    states = pipeline.tokenizer.quantizer.states(pipeline.tokenizer.encode(image))
    for step, state in zip(sampled(pipeline, "blend", image, kept), states, strict=True):
        assert torch.allclose(step.accumulated[..., :2], state.accumulated[..., :2].expand(2, -1, -1, -1), atol=1e-6)


def test_all_the_evidence_is_encoding(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(2, 3))
    steps = sampled(pipeline, "evidence", image, torch.ones(1, 1, 4, 4), strength=1e6)
    assert torch.equal(packed(steps), pipeline.tokenizer.encode(image).packed.expand(2, -1))


def test_evidence_is_the_posterior_position_by_position(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(2, 3))
    kept = torch.rand(1, 1, 4, 4)
    hook = EvidenceHook(pipeline.tokenizer, image, kept, strength=1.5)
    logits = torch.randn(1, 4, 32)
    accumulated = torch.randn(1, 8, 4, 4)
    ours = hook.logits(1, logits, accumulated).log_softmax(-1)
    rest = hook.target - accumulated
    with torch.no_grad():
        for place, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            cell = (0, slice(None), slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            share = kept[cell].mean()
            mean = (rest[cell] * kept[cell]).flatten(1).sum(1) / kept[cell].sum()
            squares = (mean - pipeline.tokenizer.quantizer.codebook).square().sum(1)
            slow = logits[0, place] - 1.5 * share * squares / (2 * hook.variances[1].flatten())
            assert torch.allclose(ours[0, place], slow.log_softmax(-1), atol=1e-4)


def test_the_variance_is_that_of_what_is_kept(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(2, 3))
    kept = torch.zeros(1, 1, 4, 4)
    kept[..., :1] = 1
    hook = EvidenceHook(pipeline.tokenizer, image, kept)
    *_, last = pipeline.tokenizer.quantizer.states(pipeline.tokenizer.encode(image))
    rest = (hook.target - last.accumulated)[..., :1]
    assert float(hook.variances[-1].detach()) == pytest.approx(float(rest.square().mean().detach()), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("smooth", [False, True])
def test_a_hook_keeps_nothing_of_its_last_run(pipeline: VARPipeline, method: str, smooth: bool) -> None:
    kept = torch.zeros(1, 1, 4, 4)
    kept[..., :2] = 1
    hook = HookChain(METHODS[method](pipeline.tokenizer, pixels(toy_image(0, 0)), kept))

    def run(seed: int) -> torch.Tensor:
        *_, last = pipeline.generate_steps(["red"], seeds=[seed], hook=hook, smooth=smooth, temperature=4.0, top_k=0)
        return last.accumulated

    first, other = run(0), run(1)
    assert torch.equal(run(0), first) and not torch.equal(first, other)
