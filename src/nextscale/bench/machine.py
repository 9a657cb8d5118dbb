"""What the machine does: time, peak memory, and the rates of products and of reading memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from nextscale.nn.cuda import compiles
from nextscale.nn.linear import Linear
from nextscale.nn.packed import PackedLinear, can_pack, int8_range, is_quantized, pack_linears

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def title_of(device: torch.device) -> str:
    """A device's name, and on CUDA its model."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def kernels_of(model: nn.Module, device: torch.device) -> str:
    """Which kernels multiply the matrices of a model that is ready for generation, in words."""
    if is_quantized(model):
        weight, largest = int8_range()
        return f"oneDNN's int8 products, weights in {weight} and inputs in {largest} steps"
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        return "oneDNN's products, weights packed once"
    if device.type == "cuda":
        return "torch's products between kernels of Triton" if compiles(device) else "torch's products, no Triton"
    return "torch's own products: oneDNN has none that fit this type and processor"


def now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


Mark = float | torch.cuda.Event
"""A place in the order of a device's work."""


def mark(device: torch.device) -> Mark:
    """The end of what the device was given so far: on CUDA an event, for which nothing waits; elsewhere `now`."""
    if device.type != "cuda":
        return now(device)
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(before: Mark, after: Mark) -> float:
    """Seconds that the device took from one mark to another; waits for the other."""
    if isinstance(before, int | float):
        assert isinstance(after, int | float)
        return after - before
    assert not isinstance(after, int | float)
    after.synchronize()
    return before.elapsed_time(after) / 1000


def fastest(work: Callable[[], object], device: torch.device, *, rounds: int) -> float:
    """Seconds of the fastest of so many rounds, after one that warms up."""
    work()
    marks = [mark(device)]
    for _ in range(rounds):
        work()
        marks.append(mark(device))
    return min(seconds_between(before, after) for before, after in pairwise(marks))


def gemm_rate(device: torch.device, dtype: torch.dtype, *, rows: int = 0, width: int = 0) -> float:
    """FLOPs per second of one large matrix product of this type, (rows, width) x (width, width).

    Without sizes, it is one that occupies the device: 8192 of both on CUDA, else 2048 x 4096.
    """
    on_cuda = device.type == "cuda"
    rows, width = rows or (8192 if on_cuda else 2048), width or (8192 if on_cuda else 4096)
    layer: nn.Module = nn.Sequential(Linear(width, width, bias=False)).to(device, dtype).requires_grad_(False)
    if can_pack(device, dtype):
        pack_linears(layer)
    x = torch.randn(rows, width, device=device, dtype=dtype)
    with torch.no_grad():
        return 2 * rows * width**2 / fastest(lambda: layer(x), device, rounds=20 if on_cuda else 5)


def memory_rate(device: torch.device, *, numbers: int = 2**28) -> float:
    """Bytes per second of so many float32 numbers, a gigabyte: weights at batch 1 are read at this rate.

    They are read, or on CUDA copied, which is to read and to write them: nothing else there takes no longer.
    """
    source = torch.ones(numbers, device=device)
    if device.type != "cuda":
        return source.nbytes / fastest(lambda: float(source.sum()), device, rounds=4)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest(lambda: target.copy_(source), device, rounds=20)


def reset_peak_memory(device: torch.device) -> bool:
    """Start a new peak. False where the system cannot, so that the peak is that of the process since its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR.write_text("5")  # resets VmHWM; proc(5)
    except OSError:
        return False
    return True


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak: allocated on a CUDA device, else resident in the process's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
