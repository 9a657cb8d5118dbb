"""How long generation takes, stage by stage, beside the work it does and the rate the machine can do it at.

FLOPs count a multiply-add as two. Times are seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.evaluation.cost import generation_flops
from nextscale.evaluation.memory import peak_memory, reset_peak_memory
from nextscale.families.var import VAR
from nextscale.nn.linear import Linear
from nextscale.nn.packed import can_pack, pack_linears
from nextscale.pipeline import VARPipeline
from nextscale.sampling.next_scale import SamplingHook


class Stopwatch(SamplingHook):
    """Splits the time of a generation: per scale the transformer, and the rest (draws, phi, accumulation)."""

    watches = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.transformer: list[float] = []
        self.sampling: list[float] = []
        self.last = self.now()

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self.last = self.last, self.now()
        return self.last - before

    def logits(self, scale: int, logits: Tensor, accumulated: Tensor) -> Tensor:
        self.transformer.append(self.lap())
        return logits

    def accumulated(self, scale: int, accumulated: Tensor) -> Tensor:
        self.sampling.append(self.lap())
        return accumulated


@dataclass(frozen=True)
class GenerationTimes:
    """Seconds of a batch."""

    batch: int
    transformer: tuple[float, ...]  # per scale
    sampling: tuple[float, ...]  # per scale
    decode: float

    @property
    def total(self) -> float:
        return sum(self.transformer) + sum(self.sampling) + self.decode

    @classmethod
    def middle(cls, rounds: Sequence[GenerationTimes]) -> GenerationTimes:
        """Stage by stage the median over rounds."""
        return cls(
            rounds[0].batch,
            tuple(median(times) for times in zip(*(r.transformer for r in rounds), strict=True)),
            tuple(median(times) for times in zip(*(r.sampling for r in rounds), strict=True)),
            median(r.decode for r in rounds),
        )


def time_generation(pipeline: VARPipeline, batch: int, *, seed: int = 0, **settings: Any) -> GenerationTimes:
    """Generate and decode one batch, classes in turn, with a stopwatch."""
    classes = pipeline.transformer.config.classes
    watch = Stopwatch(pipeline.device)
    wanted = [i % classes for i in range(batch)] if classes else None
    *_, last = pipeline.generate_steps(wanted, seeds=range(seed, seed + batch), hook=watch, **settings)
    watch.lap()
    pipeline.tokenizer.decode_each(last.accumulated)
    return GenerationTimes(batch, tuple(watch.transformer), tuple(watch.sampling), watch.lap())


@dataclass(frozen=True)
class GenerationSpeed:
    """Median times of a batch size, with what explains them."""

    times: GenerationTimes
    spread: float  # slowest round over fastest
    flops_per_image: float
    gemm_flops_per_second: float
    peak_bytes: int
    cache_bytes_per_image: int

    @property
    def images_per_second(self) -> float:
        return self.times.batch / self.times.total

    @property
    def share_of_gemm(self) -> float:
        """FLOPs per second of whole generations, as a share of one large matrix product's."""
        return self.flops_per_image * self.images_per_second / self.gemm_flops_per_second

    def to_dict(self) -> dict[str, Any]:
        figures = {name: getattr(self, name) for name in ("images_per_second", "share_of_gemm")}
        return asdict(self) | {"total": self.times.total} | figures


def measure_speed(
    pipeline: VARPipeline,
    batches: Sequence[int],
    *,
    rounds: int,
    advance: Callable[[int], None] = lambda done: None,
    **settings: Any,
) -> list[GenerationSpeed]:
    """One warm-up and `rounds` rounds over all batch sizes in turn. `settings` are the sampler's."""
    device, dtype = pipeline.device, pipeline.transformer.dtype
    measured: dict[int, list[GenerationTimes]] = {batch: [] for batch in batches}
    peaks: dict[int, int] = {}
    for number in range(rounds + 1):
        for place, batch in enumerate(batches):
            reset_peak_memory(device)
            times = time_generation(pipeline, batch, seed=number * max(batches), **settings)
            if number:
                measured[batch].append(times)
            else:  # later rounds still hold what earlier ones of larger batches freed
                peaks[batch] = peak_memory(device)
            advance(number * len(batches) + place + 1)
    guided = bool(pipeline.sampling(**settings).guidance)
    flops = generation_flops(pipeline.transformer.config, pipeline.tokenizer.config, guided=guided)
    gemm = gemm_rate(device, dtype)
    assert isinstance(pipeline.transformer, VAR)  # other kinds refuse the stopwatch
    cache = pipeline.transformer.new_cache(1)
    cache_bytes = (2 if guided else 1) * (cache.keys.nbytes + cache.values.nbytes)
    return [
        GenerationSpeed(
            times=GenerationTimes.middle(done),
            spread=max(t.total for t in done) / min(t.total for t in done),
            flops_per_image=flops.total,
            gemm_flops_per_second=gemm,
            peak_bytes=peaks[batch],
            cache_bytes_per_image=cache_bytes,
        )
        for batch, done in measured.items()
    ]


def gemm_rate(device: torch.device, dtype: torch.dtype, *, rows: int = 2048, width: int = 4096) -> float:
    """FLOPs per second of one large product of this type, best of six."""
    layer: nn.Module = nn.Sequential(Linear(width, width, bias=False)).to(device, dtype).requires_grad_(False)
    if can_pack(device, dtype):
        pack_linears(layer)
    x = torch.randn(rows, width, device=device, dtype=dtype)
    watch, times = Stopwatch(device), []
    for _ in range(6):
        watch.lap()
        layer(x)
        times.append(watch.lap())
    return 2 * rows * width**2 / min(times)
