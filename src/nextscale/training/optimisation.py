"""Optimisation of both stages: schedules, parameter groups, one update of a network, averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nextscale.config import half_cosine
from nextscale.training.config import OptimiserConfig

LARGEST_SCALE = 32768.0
"""Bound on the scale of float16 gradients (published recipe)."""


def learning_rate(step: int, steps: int, config: OptimiserConfig, batch_size: int) -> float:
    """Rate at a step (0-based): linear warm-up from 0.005, flat, then a decay, linear (official "lin0") or cosine."""
    peak = config.learning_rate * (batch_size / config.rate_batch if config.rate_batch else 1.0)
    warm = config.warmup * steps
    if step < warm:
        return peak * (0.005 + 0.995 * step / warm)
    progress = (step - warm) / max(1.0, steps - 1 - warm)
    decayed = min(1.0, max(0.0, progress - config.flat) / (1 - config.flat))
    if config.cosine:
        return peak * half_cosine(1.0, config.final, decayed)
    return peak * (1 - (1 - config.final) * decayed)


def training_share(step: int, steps: int) -> float:
    """Share of a training at a step (0-based): 0 at the first, 1 at the last."""
    return step / max(1, steps - 1)


def weight_decay(step: int, steps: int, config: OptimiserConfig) -> float:
    """Weight decay at a step (0-based): constant, or half a cosine to its end (official `lr_control.py`)."""
    if config.weight_decay_end < 0:
        return config.weight_decay
    return half_cosine(config.weight_decay, config.weight_decay_end, training_share(step, steps))


def betas(step: int, steps: int, config: OptimiserConfig) -> tuple[float, float]:
    """AdamW's decays of both moments at a step (0-based)."""
    if config.beta2_end < 0:
        return config.beta1, config.beta2
    return config.beta1, half_cosine(config.beta2, config.beta2_end, training_share(step, steps))


def averaging_decay(step: int, steps: int, config: OptimiserConfig) -> float | None:
    """Decay of the averaged weights at a step (0-based) by their half-life; None where `ema` says it."""
    if not config.ema_half_life:
        return None
    half_life = half_cosine(0.0, config.ema_half_life * steps, training_share(step, steps))
    return 0.5 ** (1 / max(half_life, 1e-8))


def build_optimiser(model: nn.Module, config: OptimiserConfig, skip_decay: Callable[[str, Tensor], bool]) -> AdamW:
    """AdamW with two groups of parameters: with and without weight decay."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if skip_decay(name, parameter) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=True)


def set_schedule(optimiser: Optimizer, step: int, steps: int, config: OptimiserConfig, batch_size: int) -> None:
    """Give the optimiser the learning rate, weight decay and moments' decays of a step."""
    rate, decay = learning_rate(step, steps, config, batch_size), weight_decay(step, steps, config)
    for group in optimiser.param_groups:
        group["lr"] = rate
        group["betas"] = betas(step, steps, config)
        group["weight_decay"] = decay if group["weight_decay"] else 0.0


def gradient_scaler(device: torch.device, dtype: torch.dtype) -> GradScaler | None:
    """The scaler that float16 gradients need (initial 2^11, doubled every 1,000 good steps); None for others."""
    if dtype != torch.float16:
        return None
    return GradScaler(device.type, init_scale=2.0**11, growth_interval=1000)


@contextmanager
def frozen(models: Iterable[nn.Module]) -> Iterator[None]:
    """No gradients for the weights of these models, for a while."""
    parameters = [one for model in models for one in model.parameters() if one.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class Updater:
    """Updates the weights of one network from its losses: gradients (scaled in float16), clipping, a step."""

    def __init__(
        self,
        model: nn.Module,
        config: OptimiserConfig,
        skip_decay: Callable[[str, Tensor], bool],
        *,
        scaler: GradScaler | None = None,
    ) -> None:
        self.model, self.config, self.scaler = model, config, scaler
        self.optimiser = build_optimiser(model, config, skip_decay)

    def schedule(self, step: int, steps: int, batch_size: int) -> None:
        """Take the learning rate, weight decay and moments' decays of a step."""
        set_schedule(self.optimiser, step, steps, self.config, batch_size)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that are there."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self) -> Tensor:
        """Clip the gradients, step, clear them; returns their norm before clipping."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.scaler is None:
            self.optimiser.step()
        else:
            self.scaler.step(self.optimiser)
            self.scaler.update()
            scale = self.scaler.scale(torch.ones((), device=norm.device))  # `get_scale` would wait for the device
            self.scaler.update(scale.clamp_max(LARGEST_SCALE))
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Any]:
        """Weights, the optimiser's state, and the scaler's where there is one."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

    def parts(self) -> dict[str, Any]:
        """Everything that has a state, by its name in a checkpoint."""
        scaler = {} if self.scaler is None else {"scaler": self.scaler}
        return {"model": self.model, "optimiser": self.optimiser, **scaler}


class Average(nn.Module):
    """Exponential moving average of a model's parameters; early steps average over fewer steps."""

    n_averaged: Tensor

    def __init__(self, model: nn.Module, decay: float, *, part: nn.Module | None = None) -> None:
        """Only the parameters of `part` of the model are averaged where it is given; the others are copied."""
        super().__init__()
        self.module = copy.deepcopy(model)
        self.decay = decay
        self.register_buffer("n_averaged", torch.tensor(0))  # on the CPU, where reading it waits for no device
        averaged = {id(parameter) for parameter in (model if part is None else part).parameters()}
        self.averaged = [name for name, parameter in model.named_parameters() if id(parameter) in averaged]
        stored = model.state_dict()
        self.copied = [name for name, parameter in model.named_parameters() if id(parameter) not in averaged]
        self.copied += [name for name, _ in model.named_buffers() if name in stored]  # others are constants

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float | None = None) -> None:
        """Take the weights of a step in, with this decay instead of the one that warms up."""
        count = int(self.n_averaged)
        ours, theirs = (dict(one.named_parameters()) | dict(one.named_buffers()) for one in (self.module, model))
        averages, current = (own_parts(one[name] for name in self.averaged) for one in (ours, theirs))
        if count:
            decay = min(self.decay, (1 + count) / (10 + count)) if decay is None else decay
            get_ema_multi_avg_fn(decay)(averages, current, count)
        else:
            for average, parameter in zip(averages, current, strict=True):
                average.copy_(parameter)
        for name in self.copied:
            ours[name].copy_(theirs[name])
        self.n_averaged += 1


def own_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's parts of tensors that may be split over processes."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
