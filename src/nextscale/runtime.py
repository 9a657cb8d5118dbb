"""Devices, precisions, processes, random generators and memory."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import distributed as dist

from nextscale.config import require_seed

LARGE = 100_000_000
"""Number of parameters above which `auto` is bf16 on CPU: faster, but images then depend a little on their batch."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The types of `config.PRECISIONS`."""
STORED_DTYPES = DTYPES | {"int8": torch.int8}
"""The types of `config.STORED`."""
EMULATED = 5e-3
"""Seconds that only emulated products of 16 x 128 x 128 take."""
SLOW = 1.5
"""From this many times as long as a float32 product, one in bf16 is slow; below, the machine may just be busy."""


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """A torch device; `auto` is the first available of CUDA, MPS and CPU. Raises ValueError for one that is missing."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if str(device) == "auto":
        return torch.device(next((kind for kind, present in available.items() if present), "cpu"))
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not known; expected auto, cpu, cuda, cuda:N or mps") from error
    if not available.get(resolved.type, True):
        raise ValueError(f"device {str(device)!r} is not available on this machine; use --device auto or cpu")
    if resolved.type == "cuda" and (resolved.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device {str(device)!r} is not available: this machine has {count} (cuda:0 is the first)")
    return resolved


def resolve_dtype(precision: str | torch.dtype, device: torch.device, *, parameters: int = 0) -> torch.dtype:
    """A torch dtype from a dtype or a `--precision` name. Raises ValueError.

    `auto` is bf16 on CUDA devices that multiply it and fp16 on others. On CPU it is bf16 where that pays (the processor
    has instructions for it, and they are fast) and the model has more than 100 million `parameters`. Otherwise, and on
    MPS, it is float32, in which images do not depend on their batch.
    """
    if isinstance(precision, torch.dtype):
        if precision not in DTYPES.values():
            raise ValueError(f"dtype {precision} is not supported; expected float32, bfloat16 or float16")
        return precision
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if cuda_multiplies_bf16(device) else torch.float16
        large = device.type == "cpu" and parameters > LARGE and multiplies_bf16()
        return torch.bfloat16 if large else torch.float32
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is not known; expected auto, {', '.join(DTYPES)}")
    return DTYPES[precision]


def resolve_training_dtype(precision: str | torch.dtype, device: torch.device) -> torch.dtype:
    """`resolve_dtype`, but on CPU `auto` is bf16 for models of any size, where the processor has instructions for it.

    For training, and for encoding or decoding many images. On such processors bf16 trains up to 1.4 times as fast as
    float32; others emulate it at a twentieth of float32's speed.
    """
    return resolve_dtype(precision, device, parameters=LARGE + 1)


def precision_name(dtype: torch.dtype) -> str:
    """The `--precision` name of a torch dtype."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def resolve_generation_dtype(precision: str | torch.dtype, device: torch.device, *, parameters: int = 0) -> torch.dtype:
    """`resolve_dtype` with one more precision, int8, which runs on CPU only. Raises ValueError."""
    if precision not in ("int8", torch.int8):
        try:
            return resolve_dtype(precision, device, parameters=parameters)
        except ValueError as error:
            raise ValueError(f"{error}, int8") from error
    if device.type != "cpu":
        raise ValueError(f"precision int8 runs on cpu only, not on {device}; use auto")
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        raise ValueError("precision int8 needs a torch built with oneDNN; use auto")
    return torch.int8


def cuda_multiplies_bf16(device: torch.device) -> bool:
    """Whether a CUDA device has instructions for bf16 products; torch emulates them on older ones, slowly."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def multiplies_bf16() -> bool:
    """Whether products in bf16 pay on this processor."""
    return not bf16_obstacle()


def bf16_obstacle() -> str:
    """Why products in bf16 do not pay on this processor, in words; empty where they do."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return "this processor has no instructions for bf16 products"
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()  # the user's limit
    if limit.startswith(("SSE", "AVX2")) or limit in ("AVX", "AVX512_CORE", "AVX512_CORE_VNNI"):
        return f"ONEDNN_MAX_CPU_ISA {limit} leaves out the instructions for bf16 products"
    if not mkldnn_supports_bf16():
        return "this torch has no bf16 products for this processor"
    return "bf16 products are slower than those of float32 here" if bf16_is_slow() else ""


@lru_cache(maxsize=1)
def bf16_is_slow() -> bool:
    """Whether bf16 products take longer than float32's although the processor says that it has them.

    Measured once, in some hundredths of a second: a small product first, since emulation may take a thousand times
    as long.
    """
    if product_seconds(16, 128, torch.bfloat16) > EMULATED:
        return True
    return product_seconds(256, 1024, torch.bfloat16) > SLOW * product_seconds(256, 1024, torch.float32)


def product_seconds(rows: int, side: int, dtype: torch.dtype) -> float:
    """Seconds of the fastest of five products (rows, side) x (side, side), after one that warms up."""
    x, weight = (torch.ones(count, side, device="cpu", dtype=dtype) for count in (rows, side))
    seconds = []
    with torch.no_grad():
        for _ in range(6):
            began = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def reason_of(precision: str | torch.dtype, device: torch.device, *, parameters: int = 0) -> str:
    """Why `resolve_generation_dtype` chooses what it does, in words."""
    if precision != "auto":
        return "as asked for"
    if device.type == "cuda":
        return "this GPU multiplies bf16" if cuda_multiplies_bf16(device) else "this GPU has no bf16 products"
    if device.type != "cpu":
        return f"all of {device.type} is float32"
    if parameters <= LARGE:
        return "a model of up to 100 million parameters, whose images do not depend on their batch in float32"
    return bf16_obstacle() or "this processor multiplies bf16"


def mkldnn_supports_bf16() -> bool:
    """Whether torch has oneDNN and it computes bf16 on this processor."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to `dtype`, or nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def free_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that torch may still use: those that are free, and those that it keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class Float32Precision:
    """Keeps float32 products and convolutions on CUDA in float32; torch's default for convolutions is TF32.

    The flags are the process's: the first to enter sets them, and the last to leave restores what was set, in whatever
    thread they are. The old flags (`allow_tf32`) are not touched: torch refuses to mix them with these.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, ("", "")

    @contextmanager
    def __call__(self) -> Iterator[None]:
        cudnn: Any = torch.backends.cudnn  # torch's type stubs lack `conv`
        convolutions, products = cudnn.conv, torch.backends.cuda.matmul
        with self.lock:
            if self.inside == 0:
                self.before = convolutions.fp32_precision, products.fp32_precision
                convolutions.fp32_precision = products.fp32_precision = "ieee"
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if self.inside == 0:
                    convolutions.fp32_precision, products.fp32_precision = self.before


exact_float32 = Float32Precision()
"""Context in which float32 on CUDA is float32."""


def image_generator(seed: int) -> torch.Generator:
    """The generator of one image, on the CPU so that all devices draw the same noise. Raises ValueError."""
    require_seed(seed)
    return torch.Generator(device="cpu").manual_seed(seed)


@dataclass(frozen=True)
class Processes:
    """This process among those launched by torchrun."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process of the group has called this; without a group, return at once."""
        if dist.is_initialized():
            dist.barrier()


def launched_processes() -> Processes:
    """Rank and world size from torchrun's environment variables; without them, a single process."""
    return Processes(
        rank=int(os.environ.get("RANK", "0")),
        world=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


def retain_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system. Does nothing on other C libraries.

    Otherwise every operation maps new memory for its large temporaries, and the page faults cost a third of a training
    step on CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of <malloc.h>
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)  # first return what is free already
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
