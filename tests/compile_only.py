"""A pytest plugin: Triton's kernels are compiled for a GPU that is not there, and not launched.

Their results stay empty, so that assertions about them fail; what counts is the report: kernels compiled, and errors.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

VARIANTS = 3
"""How many variants (types, sizes) of a kernel are compiled."""

compiled: Counter[str] = Counter()
errors: dict[str, str] = {}
plain = JITFunction.run


class Hopper:
    """As much of Triton's driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
    """`JITFunction.run` without a launch."""
    if compiled[kernel.__name__] >= VARIANTS:
        return None
    try:
        result = plain(kernel, *args, grid=grid, warmup=True, **options)
    except Exception as error:
        errors.setdefault(kernel.__name__, f"{type(error).__name__}: {error}")
        raise
    compiled[kernel.__name__] += 1
    return result


driver.set_active(Hopper())
JITFunction.run = run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"compiled: {' '.join(sorted(compiled))}")
    for name, error in errors.items():
        terminalreporter.write_line(f"error in {name}: {error}")
