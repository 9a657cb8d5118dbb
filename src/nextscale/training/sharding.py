"""FSDP2: weights, gradients, averages and optimiser state split over the processes, and checkpoints of them.

Checkpoints are torch's distributed format, which unpickles its index: a run folder is its owner's and trusted.
Models that leave the run are whole, as safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from nextscale.training.loop import Updater
from nextscale.training.optimisation import Average


def shard(model: nn.Module, units: Sequence[nn.Module], device: torch.device) -> None:
    """Split a model's parameters over all processes: each unit is gathered when it runs, the rest as one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in units:
        fully_shard(unit, mesh=mesh)
        for method in getattr(unit, "forward_methods", ()):
            register_fsdp_forward_method(unit, method)
    fully_shard(model, mesh=mesh)


def sharded_state(updater: Updater) -> dict[str, Any]:
    """The state of an updater in distributed form; all processes must call."""
    model, optimiser = get_state_dict(updater.model, updater.optimiser)
    state = {"model": model, "optimiser": optimiser}
    if updater.average is not None:
        state["average"] = get_model_state_dict(updater.average.module)
        state["averaged"] = {"count": updater.average.n_averaged}
    if updater.scaler is not None:
        state["scaler"] = updater.scaler.state_dict()
    return state


def save_sharded(updater: Updater, folder: Path) -> None:
    """Write a state to a folder that is not there yet; every process writes its part."""
    save(sharded_state(updater), checkpoint_id=str(folder))


def load_sharded(updater: Updater, folder: Path) -> None:
    """Take up a state, from any number of processes."""
    state = sharded_state(updater)
    load(state, checkpoint_id=str(folder))
    set_state_dict(
        updater.model, updater.optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"]
    )
    if updater.average is not None:
        set_model_state_dict(updater.average.module, state["average"])
        updater.average.n_averaged.copy_(state["averaged"]["count"])
    if updater.scaler is not None:
        updater.scaler.load_state_dict(state["scaler"])


def whole_state(average: Average[Any]) -> dict[str, Any]:
    """The averaged weights, whole and on the CPU of the main process; all processes must call."""
    return get_model_state_dict(average.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
