"""Training that repeats to the bit: always on the CPU, on CUDA where `deterministic` asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable without which cuBLAS's products may differ; torch looks at it once, at the first product."""


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """While in it, operations are deterministic if that is `wanted`; to be entered before the first product on CUDA.

    Attention, convolutions and embeddings then take torch's deterministic gradients; resizes whose gradient torch has
    no such algorithm for are products (`tokenizer.residual.upsample`, `nn.perceptual.mirrored`). What has none is a
    RuntimeError of torch's.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    convolutions = torch.backends.cudnn.deterministic
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic = convolutions


def exactness_line(device: torch.device, wanted: bool) -> str:
    """What of a run repeats exactly on a device, in words; empty on the CPU, where everything does."""
    if device.type == "cpu":
        return ""
    if wanted and device.type == "cuda":
        return "deterministic: repeats and continues to the same bits on GPUs of this kind, with the same torch"
    advice = "; --deterministic makes it, and is slower" if device.type == "cuda" else ""
    return f"order, crops and dropout of classes repeat exactly, rounding does not{advice}"
