"""Speed measurements: what they count, and that watching changes nothing."""

from __future__ import annotations

import mmap

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nextscale.bench.cost import generation_flops
from nextscale.bench.machine import (
    fastest,
    gemm_rate,
    mark,
    memory_rate,
    peak_memory,
    reset_peak_memory,
    seconds_between,
)
from nextscale.bench.speed import GenerationTimes, Stopwatch, measure_speed, time_generation
from nextscale.families.var import VARConfig
from nextscale.tokenizer.vqvae import VQVAEConfig
from toys import make_pipeline

CPU = torch.device("cpu")


@pytest.mark.parametrize("changes", [{}, {"shared_adaln": True}])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_flops_are_those_that_torch_counts(changes: dict, guidance: float) -> None:
    pipeline = make_pipeline(**changes)
    pipeline.transformer.to(torch.bfloat16)  # in which attention is products that torch counts
    with FlopCounterMode(display=False) as counter:
        *_, last = pipeline.generate_steps([0], seeds=[0], guidance=guidance)
    counts = counter.get_flop_counts()["Global"]
    products = {op: n for op, n in counts.items() if "convolution" not in str(op)}  # phi aside
    flops = generation_flops(pipeline.transformer.config, pipeline.tokenizer.config, guided=guidance > 0)
    assert sum(products.values()) == flops.blocks + flops.attention + flops.head
    with FlopCounterMode(display=False) as counter:
        pipeline.tokenizer.decode_features(last.accumulated)
    assert counter.get_total_flops() == flops.decoder


def test_published_work_of_an_image() -> None:
    flops = generation_flops(VARConfig(depth=16), VQVAEConfig(), guided=True)
    assert flops.blocks == pytest.approx(548e9, rel=0.01)
    assert flops.attention == pytest.approx(38e9, rel=0.02)
    assert flops.head == pytest.approx(11e9 / 2, rel=0.05)  # guided before the head
    assert flops.decoder == pytest.approx(394e9, rel=0.01)


def test_watching_leaves_images_alone() -> None:
    pipeline = make_pipeline().to(CPU, torch.float32)
    plain = list(pipeline.generate_steps([0, 1, 2], seeds=[0, 1, 2]))
    watch = Stopwatch(CPU)
    watched = list(pipeline.generate_steps([0, 1, 2], seeds=[0, 1, 2], hook=watch))
    assert torch.equal(plain[-1].accumulated, watched[-1].accumulated)
    assert len(watch.transformer) == len(watch.sampling) == len(pipeline.schedule)
    assert min(watch.transformer) > 0


def test_measured_speed_adds_up() -> None:
    pipeline = make_pipeline().to(CPU, torch.float32)
    seen = []
    one, two = measure_speed(pipeline, [1, 2], rounds=2, advance=seen.append, guidance=0.0)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert (one.times.batch, two.times.batch) == (1, 2)
    for speed in (one, two):
        assert speed.images_per_second == pytest.approx(speed.times.batch / speed.times.total)
        assert speed.spread >= 1
        rate = speed.flops_per_image * speed.images_per_second
        assert speed.share_of_gemm == pytest.approx(rate / speed.gemm_flops_per_second)
        assert speed.peak_bytes > 1e6
    assert one.cache_bytes_per_image == 2 * 2 * 2 * 30 * 64 * 4  # keys and values, layers, heads, positions, width


def test_unconditional_models_can_be_timed() -> None:
    assert time_generation(make_pipeline(classes=0), 2).batch == 2


def test_rates_are_rates() -> None:
    assert gemm_rate(CPU, torch.float32, rows=64, width=256) > 1e8
    assert memory_rate(CPU, numbers=2**20) > 1e8


class FakeEvent:
    """In the place of torch.cuda.Event: the n-th one that is recorded is at n squared milliseconds."""

    recorded = 0

    def __init__(self, *, enable_timing: bool = False) -> None:
        self.timed, self.place, self.waited = enable_timing, 0, False

    def record(self, stream: str) -> None:
        assert stream == "stream of cuda:1"
        FakeEvent.recorded += 1
        self.place = FakeEvent.recorded

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.timed and end.timed and end.waited
        return float(end.place**2 - self.place**2)


def test_on_cuda_time_is_what_lies_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEvent, "recorded", 0)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    device = torch.device("cuda:1")
    assert seconds_between(mark(device), mark(device)) == pytest.approx(0.003)
    calls: list[int] = []
    assert fastest(lambda: calls.append(1), device, rounds=3) == pytest.approx(0.007)  # events 3 and 4
    assert len(calls) == 4, "the first warms up and is not timed"
    watch = Stopwatch(device)
    for scale in range(2):
        watch.logits(scale, torch.empty(0), torch.empty(0))
        watch.accumulated(scale, torch.empty(0))
    assert watch.transformer == pytest.approx([0.015, 0.019])  # events 7 to 11
    assert watch.sampling == pytest.approx([0.017, 0.021])


def test_where_a_batch_may_be_one_graph_it_is_timed_whole() -> None:
    one, two, three = (GenerationTimes(2, (1.0,), (2.0,), 3.0, whole) for whole in (5.0, 4.0, 8.0))
    middle = GenerationTimes.middle([one, two, three])
    assert (middle.stages, middle.whole, middle.total) == (6.0, 5.0, 5.0)
    stages = GenerationTimes(2, (1.0,), (2.0,), 3.0)
    assert (stages.whole, stages.total) == (None, 6.0)


def test_peak_memory_sees_what_was_allocated() -> None:
    if not reset_peak_memory(CPU):
        pytest.skip("this system cannot reset the peak")
    before = peak_memory(CPU)
    with mmap.mmap(-1, 64 * 2**20) as block:  # fresh pages, whatever the allocator has kept
        block.write(bytes(64 * 2**20))
        assert peak_memory(CPU) - before > 60 * 2**20
    reset_peak_memory(CPU)
    assert peak_memory(CPU) - before < 60 * 2**20
