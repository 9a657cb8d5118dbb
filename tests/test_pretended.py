"""The pretended device refuses what CUDA refuses; otherwise tests on it would show nothing."""

from __future__ import annotations

import pytest
import torch

from pretended import DEVICE, pretended_device


def test_tensors_of_two_devices_do_not_mix() -> None:
    with pretended_device():
        there, here = torch.arange(3, device=DEVICE), torch.arange(3)
        assert (there + 1).device == DEVICE and (there + 1).tolist() == [1, 2, 3]
        assert torch.equal(here.to(DEVICE).cpu(), here) and there[here].tolist() == there[[0, 1, 2]].tolist() == [
            0,
            1,
            2,
        ]
        there += 1
        assert there.cpu().numpy().tolist() == [1, 2, 3]
        for mixed in (lambda: there + here, lambda: torch.cat([here, there]), lambda: here[there]):
            with pytest.raises(
                AssertionError, match=r"mixes tensors of the CPU \[\(3,\)\] with those of another device"
            ):
                mixed()
        with pytest.raises(AssertionError, match="numpy of a tensor that is not on the CPU"):
            there.numpy()
