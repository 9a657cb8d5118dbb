"""Triton's kernels against the torch expressions that they stand for, on CUDA or in Triton's interpreter."""

import itertools

import pytest
import torch

pytest.importorskip("triton")

from nextscale.nn.cuda import plain_expressions
from nextscale.sampling import kernels
from nextscale.sampling.draw import draw_next, draw_tokens, tempered
from nextscale.sampling.next_scale import sample, sample_scales
from nextscale.sampling.noise import CONFIDENCES, gumbel_noise
from nextscale.sampling.step import SamplingConfig
from toys import make_tokenizer, make_transformer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEEDS = torch.tensor([3, 2**63 - 1])


def plainly(logits: torch.Tensor, step: int, config: SamplingConfig, stream: int = 0) -> torch.Tensor:
    """What the kernel has to draw, by torch on the CPU."""
    noise = gumbel_noise(SEEDS, step, *logits.shape[1:], stream=stream)
    return draw_tokens(tempered(logits, config.temperature), noise, top_k=config.top_k, top_p=config.top_p)[0]


def by_kernel(logits: torch.Tensor, step: int, config: SamplingConfig, stream: int = 0) -> torch.Tensor:
    return kernels.draw(logits.to(DEVICE), step, SEEDS.to(DEVICE), config, stream=stream).cpu()


@pytest.mark.parametrize("size", [1, 7, 128, 300])
@pytest.mark.parametrize(("step", "stream"), [(0, 0), (5, 1), (2**31 - 1, CONFIDENCES)])
def test_noise_is_that_of_the_cpu(size: int, step: int, stream: int) -> None:
    table = kernels.gumbel_table(SEEDS.to(DEVICE), step, 2, size, stream=stream).cpu()
    torch.testing.assert_close(table, gumbel_noise(SEEDS, step, 2, size, stream=stream), atol=5e-7, rtol=5e-7)


def test_small_random_numbers_keep_their_precision() -> None:
    """A logarithm near 0 of other precision would move the largest noise, which decides draws."""
    table = kernels.gumbel_table(torch.arange(4, device=DEVICE), 0, 1, 2048).cpu()
    exact = gumbel_noise(torch.arange(4), 0, 1, 2048)
    largest = exact > 5
    assert largest.sum() > 20
    torch.testing.assert_close(table[largest], exact[largest], atol=0, rtol=3e-7)


@pytest.mark.parametrize("size", [5, 32, 130])
@pytest.mark.parametrize("ties", [False, True])
def test_draws_are_those_of_the_plain_expression(size: int, ties: bool) -> None:
    torch.manual_seed(size)
    for step, (top_k, top_p) in enumerate(itertools.product((0, 1, 3, size // 2, size + 1), (0.0, 0.3, 0.96))):
        config = SamplingConfig(top_k=top_k, top_p=top_p, temperature=1.0 if step % 2 else 0.7)
        logits = torch.randn(2, 1, size) * 3
        logits = logits.round() if ties else logits
        assert torch.equal(by_kernel(logits, step, config, 1), plainly(logits, step, config, 1)), config


def test_ties_with_the_last_of_top_k_stay_and_the_first_of_equal_scores_wins() -> None:
    zeros = torch.tensor([1.0, -0.0, 0.0, -0.0, -1.0, -2.0])  # two zeros of three would be left by their bits
    drawn = [by_kernel(zeros.expand(2, 6, 6), step, SamplingConfig(top_k=2, top_p=0.0)) for step in range(2)]
    assert torch.cat(drawn).unique().tolist() == [0, 1, 2, 3]
    large = torch.tensor([0.0, 3e9, 1.0, 3e9]).expand(2, 1, 4)  # beside which noise is nothing
    for top_p in (0.0, 0.5):
        assert (by_kernel(large, 0, SamplingConfig(top_k=0, top_p=top_p)) == 1).all()


def test_dropped_and_forbidden_tokens_are_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 2.0, -5.0]).expand(2, 5, 5)
    for config, kept in (((4, 0.0), {1, 3, 4}), ((3, 0.8), {3}), ((2, 0.0), {1, 3})):
        tokens = by_kernel(logits, 0, SamplingConfig(top_k=config[0], top_p=config[1]))
        assert set(tokens.flatten().tolist()) <= kept


@pytest.mark.filterwarnings("ignore:invalid value")
def test_logits_that_are_not_numbers_still_give_tokens() -> None:
    """An index beyond the codebook would read what is not there."""
    for top_k, top_p in ((0, 0.0), (3, 0.9)):
        tokens = by_kernel(torch.full((2, 2, 5), torch.nan), 0, SamplingConfig(top_k=top_k, top_p=top_p))
        assert ((tokens >= 0) & (tokens < 5)).all()


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1000, 4096, 16384])
@torch.no_grad()
def test_draws_of_a_large_model_are_those_of_the_cpu(size: int) -> None:
    logits = torch.randn(2, 340, size, generator=torch.Generator().manual_seed(0)) * 3
    noise = kernels.gumbel_table(SEEDS.cuda(), 9, 340, size).cpu()
    torch.testing.assert_close(noise, gumbel_noise(SEEDS, 9, 340, size), atol=5e-7, rtol=5e-7)
    for config in (SamplingConfig(), SamplingConfig(top_k=0, top_p=0.0), SamplingConfig(temperature=0.7, top_k=40)):
        equal = draw_next(logits.cuda(), 9, SEEDS.cuda(), config).cpu() == plainly(logits, 9, config)
        assert equal.float().mean() > 0.998, "one in 680 may be decided by the last digits"


@pytest.mark.gpu
def test_a_graph_draws_what_is_drawn_without_one() -> None:
    """Sampling with a tensor of seeds waits nowhere for the host, and reads the seeds again at every replay."""
    quantizer, model = make_tokenizer().quantizer.cuda(), make_transformer().to("cuda", torch.bfloat16)
    config, classes, seeds = SamplingConfig(guidance=2.0, top_k=8, top_p=0.9), torch.tensor([1, 2]).cuda(), SEEDS.cuda()

    def drawn() -> torch.Tensor:
        steps = sample_scales(model, quantizer, classes, seeds=seeds, config=config)
        return torch.cat([step.tokens.flatten(1) for step in steps], dim=1)

    first = drawn()  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert drawn().shape == first.shape
    finally:
        torch.cuda.set_sync_debug_mode("default")
    table = torch.randn(2, 16, 32, device="cuda")

    def predict(scale: int, accumulated: torch.Tensor) -> torch.Tensor:
        return table[:, : quantizer.schedule.sizes[scale][0] * quantizer.schedule.sizes[scale][1]]

    def captured() -> torch.Tensor:
        *_, last = sample(predict, quantizer, seeds=seeds, config=config)
        return last.tokens

    captured()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = captured()
    for numbers in ([4, 5], [5, 4]):
        seeds.copy_(torch.tensor(numbers))
        graph.replay()
        assert torch.equal(tokens, captured())


@pytest.mark.gpu
@torch.no_grad()
def test_without_kernels_draws_are_the_same() -> None:
    logits = torch.randn(2, 30, 100, device="cuda")
    drawn = draw_next(logits, 1, SEEDS.cuda(), SamplingConfig())
    with plain_expressions():
        assert torch.equal(drawn, draw_next(logits, 1, SEEDS.cuda(), SamplingConfig()))
