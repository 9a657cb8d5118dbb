"""Between the CPU and a device, without waiting: a GPU that is waited for in every step stands idle meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device. On CUDA the copy joins the device's queue, from memory that it can read."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Late:
    """A number on its way to the CPU; `read` waits for it alone, not for what was queued on the device since."""

    def __init__(self, value: Tensor) -> None:
        value = value.detach()
        self.arrived: torch.cuda.Event | None = None
        self.value = value.to("cpu", non_blocking=value.is_cuda)
        if value.is_cuda:
            self.arrived = torch.cuda.Event()
            self.arrived.record(torch.cuda.current_stream(value.device))

    def read(self) -> float:
        """The number."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return float(self.value)
