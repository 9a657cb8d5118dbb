"""Devices and precisions, with a CUDA that is pretended."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from nextscale import runtime
from nextscale.runtime import resolve_device, resolve_dtype, resolve_generation_dtype


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, *capabilities: int) -> list[torch.device]:
    """CUDA devices of these major compute capabilities; returns those that are asked about."""
    asked: list[torch.device] = []

    def entered(device: torch.device) -> nullcontext[None]:
        asked.append(device)
        return nullcontext()

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or capabilities[asked[-1].index or 0] >= 8

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "device", entered)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    return asked


def test_bf16_only_where_the_chip_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend_cuda(monkeypatch, 9, 7)
    found = [resolve_dtype("auto", torch.device("cuda", index)) for index in range(2)]
    assert found == [torch.bfloat16, torch.float16]
    assert asked == [torch.device("cuda:0"), torch.device("cuda:1")], "each device is asked, not the current one"
    assert resolve_generation_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("bf16", torch.device("cuda:1")) == torch.bfloat16, "what is asked for is not questioned"


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, 9, 9)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"device 'cuda:2' is not available: this machine has 2"):
        resolve_device(torch.device("cuda:2"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' is not available on this machine"):
        resolve_device("cuda")


def test_bf16_only_where_it_pays_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, large = torch.device("cpu"), runtime.LARGE + 1
    seconds = {(16, torch.bfloat16): 1e-4, (256, torch.bfloat16): 1e-3, (256, torch.float32): 2e-3}
    monkeypatch.setattr(runtime, "product_seconds", lambda rows, side, dtype: seconds[rows, dtype])
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(runtime, "mkldnn_supports_bf16", lambda: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)

    def told() -> tuple[torch.dtype, str]:
        runtime.bf16_is_slow.cache_clear()
        chosen = runtime.resolve_generation_dtype("auto", cpu, parameters=large)
        return chosen, runtime.reason_of("auto", cpu, parameters=large)

    try:
        assert told() == (torch.bfloat16, "this processor multiplies bf16")
        seconds[256, torch.bfloat16] = 3.1e-3
        assert told() == (torch.float32, "bf16 products are slower than those of float32 here")
        seconds[16, torch.bfloat16] = 1.0
        del seconds[256, torch.bfloat16]  # a large product is not tried where a small one takes so long
        assert told() == (torch.float32, "bf16 products are slower than those of float32 here")
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        assert told() == (torch.float32, "ONEDNN_MAX_CPU_ISA AVX2 leaves out the instructions for bf16 products")
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
        assert told() == (torch.float32, "this processor has no instructions for bf16 products")
        assert "do not depend on their batch" in runtime.reason_of("auto", cpu, parameters=runtime.LARGE)
        assert runtime.reason_of("bf16", cpu) == "as asked for"
        assert runtime.reason_of("auto", torch.device("mps")) == "all of mps is float32"
    finally:
        runtime.bf16_is_slow.cache_clear()


def test_the_time_of_a_product_is_positive() -> None:
    assert runtime.product_seconds(16, 128, torch.float32) > 0
