"""Draws against the filters written plainly, and what the margin promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.sampling import draw as module
from nextscale.sampling.draw import draw_tokens, filter_logits
from nextscale.sampling.noise import gumbel_noise


def case(size: int, seed: int, spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 50, size, generator=generator) * spread
    return logits, gumbel_noise(torch.tensor([seed, seed + 1]), 0, 50, size)


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(0, 50), st.sampled_from([0, 1e-6, 0.3, 0.7, 0.96, 1.0]), st.integers(0, 9999))
def test_draws_equal_the_best_score_of_the_filtered(size: int, top_k: int, top_p: float, seed: int) -> None:
    logits, noise = case(size, seed)
    tokens, doubtful = draw_tokens(logits, noise, top_k=top_k, top_p=top_p)
    expected = (filter_logits(logits, top_k=top_k, top_p=top_p) + noise).argmax(dim=-1)
    assert not doubtful.any()
    if top_p < 1:  # at 1 the two sums of all probabilities round apart
        assert torch.equal(tokens, expected)
    else:
        kept = filter_logits(logits, top_k=top_k, top_p=1 - 1e-5).isfinite()
        assert (tokens == expected)[kept.gather(-1, expected.unsqueeze(-1)).squeeze(-1)].all()


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.0), (7, 0.0), (0, 0.8), (12, 0.9)])
def test_tables_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch, top_k: int, top_p: float) -> None:
    logits, noise = case(20, 0)
    whole = draw_tokens(logits, noise, top_k=top_k, top_p=top_p, margin=1e-2)
    monkeypatch.setattr(module, "TABLE_BYTES", 20 * 4 * 7)
    parts = draw_tokens(logits, noise, top_k=top_k, top_p=top_p, margin=1e-2)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@settings(max_examples=100)
@given(st.sampled_from([0, 5, 12]), st.sampled_from([0, 0.5, 0.9]), st.integers(0, 9999))
def test_without_doubt_small_changes_give_the_same_token(top_k: int, top_p: float, seed: int) -> None:
    margin = 0.02
    logits, noise = case(20, seed)
    tokens, doubtful = draw_tokens(logits, noise, top_k=top_k, top_p=top_p, margin=margin)
    assert doubtful.float().mean() < 0.5
    for number in range(5):
        change = torch.rand(logits.shape, generator=torch.Generator().manual_seed(number)) - 0.5
        # A change of every logit by e changes a sum of probabilities by up to 2 e; the margin's own slack is 1e-5.
        other, _ = draw_tokens(logits + change * 1e-5, noise, top_k=top_k, top_p=top_p)
        assert (other == tokens)[~doubtful].all()
    if not top_p:
        other, _ = draw_tokens(logits + change * margin * 0.99, noise, top_k=top_k)
        assert (other == tokens)[~doubtful].all()


def test_doubts_are_where_rounding_could_decide() -> None:
    logits = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0 - 1e-5]]])
    assert draw_tokens(logits, torch.zeros_like(logits), margin=5e-4)[1].tolist() == [[False], [True]]
    # The winner is the last token that top-k keeps, and the next is almost as likely.
    logits, noise = torch.tensor([[[3.0, 1.0, 1.0 - 1e-6]]]), torch.tensor([[[0.0, 9.0, 0.0]]])
    assert draw_tokens(logits, noise, top_k=2, margin=5e-4)[1].tolist() == [[True]]
    # The winner is the last that top-p keeps, by a hair.
    logits = torch.tensor([[[0.5, 0.3, 0.2]]]).log()
    noise = torch.tensor([[[0.0, 9.0, 0.0]]])
    for top_p, doubt in [(0.5 + 1e-6, True), (0.6, False)]:
        tokens, doubtful = draw_tokens(logits, noise, top_p=top_p, margin=5e-4)
        assert (tokens.item(), doubtful.item()) == (1, doubt)


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    noise = gumbel_noise(torch.arange(20), 0, 1000, 4)
    tokens, _ = draw_tokens(probabilities.log().expand(20, 1000, 4), noise)
    shares = torch.bincount(tokens.flatten(), minlength=4) / tokens.numel()
    assert (shares - probabilities).abs().max() < 0.012  # three standard errors of 20,000 draws


@pytest.mark.parametrize("top_k", [0, 3, 100])
def test_dropped_tokens_are_never_drawn(top_k: int) -> None:
    logits = torch.zeros(1, 500, 8)
    logits[..., 3:] = -2
    noise = gumbel_noise(torch.tensor([0]), 0, 500, 8)
    tokens, _ = draw_tokens(logits, noise, top_k=top_k)
    assert (tokens < 3).all() == (top_k == 3)
