"""Devices and precisions, with a CUDA that is pretended."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

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
