"""How long generation takes, stage by stage, beside its FLOPs and the rate of the machine's matrix products.

FLOPs count a multiply-add as two. Times are seconds; on CUDA they are those of its stream, between events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nextscale.bench.cost import sampled_flops
from nextscale.bench.machine import gemm_rate, mark, now, peak_memory, reset_peak_memory, seconds_between
from nextscale.pipeline import VARPipeline
from nextscale.plots import new_figure, viridis
from nextscale.pyramid import ScaleSchedule
from nextscale.sampling.next_scale import SamplingHook


class Stopwatch(SamplingHook):
    """Times a generation: per scale the transformer, and the rest (draws, phi, accumulation).

    Where the last map is drawn in passes, the draws between them count as the transformer's.
    """

    watches = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.began = mark(device)
        self.predicted: dict[int, Any] = {}  # the last pass of a scale
        self.finished: dict[int, Any] = {}

    @property
    def transformer(self) -> list[float]:
        """Seconds of the transformer at each scale."""
        starts = [self.began, *self.finished.values()]
        return [seconds_between(start, end) for start, end in zip(starts, self.predicted.values(), strict=False)]

    @property
    def sampling(self) -> list[float]:
        """Seconds of the rest of each scale."""
        both = zip(self.predicted.values(), self.finished.values(), strict=True)
        return [seconds_between(start, end) for start, end in both]

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        self.predicted[scale] = mark(self.device)
        return logits

    def accumulated(self, scale: int, accumulated: Tensor) -> Tensor:
        self.finished[scale] = mark(self.device)
        return accumulated


@dataclass(frozen=True)
class GenerationTimes:
    """Seconds of a batch."""

    batch: int
    transformer: tuple[float, ...]  # per scale
    sampling: tuple[float, ...]  # per scale
    decode: float
    whole: float | None = None
    "Of the batch as `generate` makes it, without a look between scales; None where that is the sum of the stages."

    @property
    def stages(self) -> float:
        """Seconds of all stages one after the other."""
        return sum(self.transformer) + sum(self.sampling) + self.decode

    @property
    def total(self) -> float:
        """Seconds of the batch for who asks for its images."""
        return self.stages if self.whole is None else self.whole

    def by_stage(self) -> list[float]:
        """The transformer of each scale, sampling of all scales, decoding."""
        return [*self.transformer, sum(self.sampling), self.decode]

    @classmethod
    def middle(cls, rounds: Sequence[GenerationTimes]) -> GenerationTimes:
        """The median over rounds of each stage."""
        return cls(
            rounds[0].batch,
            tuple(median(times) for times in zip(*(r.transformer for r in rounds), strict=True)),
            tuple(median(times) for times in zip(*(r.sampling for r in rounds), strict=True)),
            median(r.decode for r in rounds),
            None if rounds[0].whole is None else median(r.total for r in rounds),
        )


def time_generation(pipeline: VARPipeline, batch: int, *, seed: int = 0, **settings: Any) -> GenerationTimes:
    """Generate and decode one batch, classes in turn, and time it. `settings` are the sampler's.

    On CUDA the batch is also generated without the stopwatch: then all its scales may run as one graph.
    """
    classes, device = pipeline.transformer.config.classes, pipeline.device
    wanted, seeds = [i % classes for i in range(batch)] if classes else None, range(seed, seed + batch)
    watch = Stopwatch(device)
    *_, last = pipeline.generate_steps(wanted, seeds=seeds, hook=watch, **settings)
    began = mark(device)
    pipeline.tokenizer.decode_each(last.accumulated)
    decode, whole = seconds_between(began, mark(device)), None
    if device.type == "cuda":
        start = now(device)
        pipeline.generate(wanted, seeds=seeds, batch_size=batch, **settings)
        whole = now(device) - start
    return GenerationTimes(batch, tuple(watch.transformer), tuple(watch.sampling), decode, whole)


@dataclass(frozen=True)
class GenerationSpeed:
    """Median times of a batch size, and its FLOPs and memory."""

    times: GenerationTimes
    spread: float  # seconds of the slowest round over those of the fastest
    flops_per_image: float
    decoder_flops_per_image: float
    gemm_flops_per_second: float
    peak_bytes: int
    cache_bytes_per_image: int

    @property
    def images_per_second(self) -> float:
        return self.times.batch / self.times.total

    @property
    def share_of_gemm(self) -> float:
        """FLOPs per second of a generation with decoding, as a share of those of one large matrix product."""
        return self.flops_per_image * self.images_per_second / self.gemm_flops_per_second

    def to_dict(self) -> dict[str, Any]:
        figures = {name: getattr(self, name) for name in ("images_per_second", "share_of_gemm")}
        return asdict(self) | {"stages": self.times.stages, "total": self.times.total} | figures


def measure_speed(
    pipeline: VARPipeline,
    batches: Sequence[int],
    *,
    rounds: int,
    advance: Callable[[int], None] = lambda done: None,
    **settings: Any,
) -> list[GenerationSpeed]:
    """One warm-up and `rounds` rounds over all batch sizes in turn. `settings` are the sampler's.

    `advance` gets the number of batches that are done. Raises ValueError for models that have no scales to time.
    """
    if not pipeline.family.editable:
        raise ValueError(f"stage by stage, only next-scale prediction is timed; this model is {pipeline.family.title}")
    sampling = pipeline.sampling(**settings)
    device, dtype = pipeline.device, pipeline.transformer.dtype
    measured: dict[int, list[GenerationTimes]] = {batch: [] for batch in batches}
    peaks: dict[int, int] = {}
    for number in range(rounds + 1):
        for place, batch in enumerate(batches):
            reset_peak_memory(device)
            times = time_generation(pipeline, batch, seed=number * max(batches), **settings)
            if number:
                measured[batch].append(times)
            else:  # in later rounds the process still holds what larger batches freed
                peaks[batch] = peak_memory(device)
            advance(number * len(batches) + place + 1)
    flops = sampled_flops(pipeline, sampling)
    gemm = gemm_rate(device, dtype)
    cache_bytes = pipeline.family.cache_bytes(pipeline.transformer.config, dtype) // (1 if sampling.guidance else 2)
    return [
        GenerationSpeed(
            times=GenerationTimes.middle(done),
            spread=max(t.total for t in done) / min(t.total for t in done),
            flops_per_image=flops.total,
            decoder_flops_per_image=flops.decoder,
            gemm_flops_per_second=gemm,
            peak_bytes=peaks[batch],
            cache_bytes_per_image=cache_bytes,
        )
        for batch, done in measured.items()
    ]


def plot_speed(schedule: ScaleSchedule, speeds: Sequence[GenerationSpeed], path: Path) -> None:
    """Stacked bars: milliseconds per image of each stage, one bar per batch size."""
    count = len(schedule)
    stages = [f"transformer {height}x{width}" for height, width in schedule] + ["sampling", "decoder"]
    shades = [*(viridis(k, count, 0.15, 0.9) for k in range(count)), "tab:orange", "tab:gray"]
    bars = [
        [1000 * seconds / speed.times.batch for seconds in speed.times.by_stage()] for speed in speeds
    ]  # (batch sizes, stages)
    names, bottoms = [f"batch {speed.times.batch}" for speed in speeds], [0.0] * len(speeds)
    with new_figure(path, 1.6 * len(speeds) + 3.4, 4.5, dpi=150) as figure:
        axes = figure.subplots()
        for stage, shade, heights in zip(stages, shades, zip(*bars, strict=True), strict=True):
            axes.bar(names, heights, bottom=bottoms, color=shade, label=stage, width=0.6)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
        axes.set_ylabel("ms per image")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
