"""Learning-rate schedule, parameter groups and weight averaging, shared by both stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel

from nextscale.training.config import OptimiserConfig

Module = TypeVar("Module", bound=nn.Module)


def learning_rate(step: int, steps: int, config: OptimiserConfig, batch_size: int) -> float:
    """Rate at a step (0-based): linear warm-up from 0.005, flat, linear decay (official `lr_control.py`, "lin0")."""
    peak = config.learning_rate * batch_size / 256
    warm = config.warmup * steps
    if step < warm:
        return peak * (0.005 + 0.995 * step / warm)
    progress = (step - warm) / max(1.0, steps - 1 - warm)
    decayed = max(0.0, progress - config.flat) / (1 - config.flat)
    return peak * (1 - (1 - config.final) * min(1.0, decayed))


def build_optimiser(
    model: nn.Module, config: OptimiserConfig, skip_decay: Callable[[str, Tensor], bool]
) -> torch.optim.AdamW:
    """AdamW with two groups: with and without weight decay."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if skip_decay(name, parameter) else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=True)


def weight_decay(step: int, steps: int, config: OptimiserConfig) -> float:
    """Weight decay at a step (0-based): constant, or half a cosine to its end (official `lr_control.py`)."""
    if config.weight_decay_end < 0:
        return config.weight_decay
    share = step / max(1, steps - 1)
    swing = (config.weight_decay - config.weight_decay_end) * (1 + math.cos(math.pi * share)) / 2
    return config.weight_decay_end + swing


def set_schedule(
    optimiser: torch.optim.Optimizer, step: int, steps: int, config: OptimiserConfig, batch_size: int
) -> None:
    """Give the optimiser the learning rate and weight decay of a step."""
    rate, decay = learning_rate(step, steps, config, batch_size), weight_decay(step, steps, config)
    for group in optimiser.param_groups:
        group["lr"] = rate
        group["weight_decay"] = decay if group["weight_decay"] else 0.0


class Average(AveragedModel, Generic[Module]):
    """torch's AveragedModel that knows what it averages."""

    module: Module  # pyright: ignore[reportIncompatibleVariableOverride]


def own(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's parts of tensors that may be split over processes."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def averaged(model: Module, decay: float) -> Average[Module]:
    """Exponential moving average of a model's parameters; early steps average over a shorter memory."""

    def update(averages: Iterable[Tensor], current: Iterable[Tensor], count: Tensor | int) -> None:
        warmed = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(own(averages), own(current), 1 - warmed)  # pyright: ignore[reportPrivateImportUsage]

    return Average(model, multi_avg_fn=torch.no_grad()(update))  # pyright: ignore[reportArgumentType]
