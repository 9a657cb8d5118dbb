"""What the machine does: time, peak memory, and the rates of products and of reading memory."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import nn

from nextscale.nn.linear import Linear
from nextscale.nn.packed import can_pack, pack_linears

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def gemm_rate(device: torch.device, dtype: torch.dtype, *, rows: int = 2048, width: int = 4096) -> float:
    """FLOPs per second of one large matrix product of this type, the best of six."""
    layer: nn.Module = nn.Sequential(Linear(width, width, bias=False)).to(device, dtype).requires_grad_(False)
    if can_pack(device, dtype):
        pack_linears(layer)
    x = torch.randn(rows, width, device=device, dtype=dtype)
    times = []
    for _ in range(6):
        began = now(device)
        layer(x)
        times.append(now(device) - began)
    return 2 * rows * width**2 / min(times)


def memory_rate(device: torch.device) -> float:
    """Bytes per second at which a gigabyte is read, the best of five: weights at batch 1 are read at this rate."""
    numbers = torch.ones(2**28, device=device)
    times = []
    for _ in range(5):
        began = now(device)
        float(numbers.sum())
        times.append(now(device) - began)
    return numbers.nbytes / min(times)


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
