"""torch.distributed where torchrun launched the process, nothing otherwise."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule

from nextscale.runtime import Processes, launched_processes


def launched() -> Processes:
    """This process's place; joins the process group (nccl on CUDA, else gloo) on first use under torchrun."""
    processes = launched_processes()
    if processes.world > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(processes.local_rank)
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(leave)
    return processes


def leave() -> None:
    """Leave the process group, if in one.

    Gloo's threads drop their last work some moments after it is done, which needs the interpreter: one that ends
    before them aborts the process. They get a moment while it still runs.
    """
    if dist.is_initialized():
        time.sleep(0.2)
        dist.destroy_process_group()


def main_decides(action: Callable[[], None], processes: Processes) -> None:
    """Run on the main process while the others wait; a ValueError is raised on all of them."""
    outcome: list[str | None] = [None]
    if processes.is_main:
        try:
            action()
        except ValueError as error:
            outcome = [str(error)]
    if dist.is_initialized():
        dist.broadcast_object_list(outcome, 0)
    if outcome[0] is not None:
        raise ValueError(outcome[0])


def wrap(model: nn.Module, processes: Processes) -> nn.Module:
    """The model with gradients averaged over processes."""
    if processes.world == 1:
        return model
    return nn.parallel.DistributedDataParallel(model)


def gradients_at_the_end(model: nn.Module, last: bool) -> AbstractContextManager[object]:
    """While a batch is done in parts, processes exchange gradients only after its last part."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and not last:
        return model.no_sync()
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    return nullcontext()


def wait_for_all() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process: all leave a loop at the same step."""
    if not dist.is_initialized():
        return flag
    raised = torch.tensor(float(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return bool(raised)


def reduce_mean(value: Tensor) -> Any:
    """Mean over processes as a float, or a list of floats."""
    value = value.detach().float()
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value.tolist()
