"""When work on CUDA goes to kernels of our own: one decision, which every module with kernels asks.

The kernels are Triton's and lie in modules of their own (`nn.kernels`, `sampling.kernels`), which are imported on first
use. Beside each stands the torch expression that it must equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

OLDEST = (7, 0)
"""The lowest compute capability that Triton compiles for."""

enabled = True
"""Whether kernels are used where they can be; `plain_expressions` switches it off."""


def uses_kernels(x: Tensor) -> bool:
    """Whether work on a tensor goes to kernels: on CUDA, in inference, where Triton is and nothing switched it off.

    Under torch.compile the expressions stay: it makes kernels of them that fit its own.
    """
    inference = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return x.is_cuda and enabled and inference and compiles(x.device)


@lru_cache
def compiles(device: torch.device) -> bool:
    """Whether Triton is installed and compiles for a CUDA device."""
    return find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= OLDEST


@contextmanager
def plain_expressions() -> Iterator[None]:
    """Compute with torch's expressions instead of kernels, to compare the two."""
    global enabled
    before, enabled = enabled, False
    try:
        yield
    finally:
        enabled = before
