"""torch.distributed where torchrun launched the process, nothing otherwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nextscale.runtime import Processes, launched_processes


def launched() -> Processes:
    """This process's place; joins the process group (nccl on CUDA, else gloo) on first use under torchrun."""
    processes = launched_processes()
    if processes.world > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(processes.local_rank)
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return processes


def wrap(model: nn.Module, processes: Processes) -> nn.Module:
    """The model with gradients averaged over processes."""
    if processes.world == 1:
        return model
    return nn.parallel.DistributedDataParallel(model)


def reduce_mean(value: Tensor) -> Any:
    """Mean over processes as a float, or a list of floats."""
    value = value.detach().float()
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value.tolist()
