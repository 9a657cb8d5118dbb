"""Filters and guidance against slow references."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.sampling.draw import filter_logits, guidance_ramp, guide


def kept_slowly(logits: list[float], top_k: int, top_p: float) -> set[int]:
    """Indices that top-k, then top-p keep, from sorted Python lists."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k:
        order = [i for i in order if logits[i] >= logits[order[min(top_k, len(order)) - 1]]]
    if top_p:
        weights = [math.exp(logits[i] - logits[order[0]]) for i in order]
        total, gathered, kept = sum(weights), 0.0, []
        for i, weight in zip(order, weights, strict=True):
            if kept and gathered >= top_p:
                break
            kept.append(i)
            gathered += weight / total
        order = kept
    return set(order)


@settings(max_examples=200)
@given(st.integers(2, 30), st.integers(0, 40), st.floats(0, 1), st.integers(0, 10_000))
def test_filters_equal_the_slow_reference(size: int, top_k: int, top_p: float, seed: int) -> None:
    logits = torch.randn(1, 1, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    before = logits.clone()
    filtered = filter_logits(logits, top_k=top_k, top_p=top_p)
    assert torch.equal(logits, before), "the input is not overwritten"
    kept = set(filtered[0, 0].isfinite().nonzero().flatten().tolist())
    expected = kept_slowly(logits[0, 0].tolist(), top_k, top_p)
    # Only a token exactly at the edge of p may differ by rounding.
    assert kept == expected or abs(len(kept) - len(expected)) <= 1
    assert filtered[0, 0, list(kept)].tolist() == logits[0, 0, list(kept)].tolist()


def test_known_filters() -> None:
    logits = torch.tensor([[[0.5, 0.25, 0.125, 0.125]]]).log()
    assert filter_logits(logits, top_k=2).isfinite().tolist() == [[[True, True, False, False]]]
    assert filter_logits(logits, top_p=0.5).isfinite().tolist() == [[[True, False, False, False]]]
    assert filter_logits(logits, top_p=0.6).isfinite().tolist() == [[[True, True, False, False]]]
    assert filter_logits(logits, top_p=1e-9).isfinite().sum() == 1
    assert filter_logits(logits) is logits


def test_guidance_and_its_ramp() -> None:
    assert [guidance_ramp(k, 5) for k in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert guidance_ramp(0, 1) == 1
    a, b = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
    torch.testing.assert_close(guide(a, b, 1.5), 2.5 * a - 1.5 * b)
    torch.testing.assert_close(guide(a, b, 0.0), a)
