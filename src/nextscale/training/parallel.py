"""Several processes: torch.distributed under torchrun, nothing otherwise; FSDP2 and its checkpoints.

Sharded checkpoints are torch's distributed format, which unpickles its index: a run folder is its owner's and trusted.
Models that leave the run are whole, as safetensors.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from nextscale.runtime import Processes, launched_processes
from nextscale.training.optimisation import Average, Updater

logger = logging.getLogger("nextscale.training")

PATIENCE = timedelta(hours=6)
"""How long processes wait for one another: the main one measures, draws samples and exports meanwhile."""


def launched() -> Processes:
    """This process's place; joins the process group on first use under torchrun.

    Tensors on CUDA go by NCCL, those on the CPU by gloo: flags and figures, so that none of them waits for a device.
    """
    processes = launched_processes()
    if processes.world > 1 and not dist.is_initialized():
        gpus, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if gpus and gpus >= here:
            device = torch.device("cuda", processes.local_rank)
            torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE, device_id=device)
        else:
            if gpus and processes.is_main:
                logger.warning(
                    "NCCL needs a GPU for each of %d processes, and here are %d; they exchange by gloo", here, gpus
                )
            dist.init_process_group("gloo", timeout=PATIENCE)
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
        dist.broadcast_object_list(outcome, 0, device=torch.device("cpu"))
    if outcome[0] is not None:
        raise ValueError(outcome[0])


wait_for_all = Processes().wait
"""Wait until every process is here: the name that earlier versions had for it."""


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process: all leave a loop at the same step."""
    if not dist.is_initialized():
        return flag
    raised = torch.tensor(float(flag), device="cpu")
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return bool(raised)


def reduce_mean(value: Tensor) -> Any:
    """Mean over processes as a float, or a list of floats."""
    value = value.detach().float().cpu()
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value.tolist()


def add_up(value: Tensor) -> None:
    """Replace a tensor by its sum over the processes."""
    if dist.is_initialized():
        dist.all_reduce(value)


def broadcast(parameter: Tensor) -> None:
    """Give every process the main one's value."""
    if dist.is_initialized():
        dist.broadcast(parameter.data, 0)


def wrap(model: nn.Module, processes: Processes) -> nn.Module:
    """The model with gradients averaged over processes."""
    if processes.world == 1:
        return model
    devices = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else None
    # Buffers are constants, or follow from the weights: exchanging them in every step would be for nothing.
    return nn.parallel.DistributedDataParallel(model, devices, broadcast_buffers=False)


def gradients_at_the_end(model: nn.Module, last: bool) -> AbstractContextManager[object]:
    """While a batch is done in parts, processes exchange gradients only after its last part."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and not last:
        return model.no_sync()
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    return nullcontext()


def average_gradients(model: nn.Module) -> None:
    """Average a model's gradients over processes, where it was not wrapped."""
    if dist.is_initialized():
        for parameter in model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


def average_buffers(model: nn.Module) -> None:
    """Average what a model's layers track over processes, where it was not wrapped."""
    if dist.is_initialized():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= dist.get_world_size()


def shard(model: nn.Module, units: Sequence[nn.Module], device: torch.device, dtype: torch.dtype) -> None:
    """Split a model's float32 parameters over all processes: each unit is gathered when it runs, the rest as one.

    Units are gathered in `dtype`, the type of products, and their gradients added up in float32. What runs between
    units stays float32: under autocast, embeddings and the states that blocks add to are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    float32 = torch.float32
    policy = MixedPrecisionPolicy(dtype, reduce_dtype=float32, output_dtype=float32, cast_forward_inputs=False)
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy)
        for method in getattr(unit, "forward_methods", ()):
            register_fsdp_forward_method(unit, method)
    fully_shard(model, mesh=mesh)


def sharded_state(updater: Updater, average: Average) -> dict[str, Any]:
    """The state of a network and its average in distributed form; all processes must call."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_state_dict

    model, optimiser = get_state_dict(updater.model, updater.optimiser)
    state: dict[str, Any] = {"model": model, "optimiser": optimiser}
    state |= {"average": get_model_state_dict(average.module), "averaged": {"count": average.n_averaged}}
    return state if updater.scaler is None else state | {"scaler": updater.scaler.state_dict()}


def save_sharded(updater: Updater, average: Average, folder: Path) -> None:
    """Write a state to a folder that is not there yet; every process writes its part."""
    from torch.distributed.checkpoint.state_dict_saver import save

    save(sharded_state(updater, average), checkpoint_id=str(folder))


def load_sharded(updater: Updater, average: Average, folder: Path) -> None:
    """Continue from a state that any number of processes wrote."""
    from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    state = sharded_state(updater, average)
    load(state, checkpoint_id=str(folder))
    set_state_dict(
        updater.model, updater.optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"]
    )
    set_model_state_dict(average.module, state["average"])
    average.n_averaged.copy_(state["averaged"]["count"])
    if updater.scaler is not None:
        updater.scaler.load_state_dict(state["scaler"])


def whole_state(average: Average) -> dict[str, Any]:
    """The averaged weights, whole and on the CPU of the main process; all processes must call."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(average.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
