"""Weights stored in int8: a quarter of float32's size. They are float32 again when they are read.

A weight `NAME` of a product or convolution is stored as numbers from -127 to 127 with `NAME.scale`, one float32 for
each output: weight = numbers x scale. This is about storage alone; `--precision` is the type of the products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCALE = ".scale"
SMALLEST = 4096
"""Weights with fewer numbers are not worth rounding."""


def weights_of_products(module: nn.Module) -> list[str]:
    """Names of the weights of linear layers and convolutions that are large enough to be rounded."""
    return [
        f"{name}.weight"
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d) and part.weight.numel() >= SMALLEST
    ]


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (O, ...) -> numbers in int8, of its shape, and scales (O, 1, ...) in float32; rounds half to even."""
    weight = weight.float()
    largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    scale = largest.clamp_min(127 * torch.finfo(torch.float32).tiny) / 127
    return (weight / scale).round().to(torch.int8), scale


def in_int8(state: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """A state dict with the weights of these names in int8 and their scales, and all other numbers in bf16."""
    stored = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name in names:
        stored[name], stored[name + SCALE] = rounded(state[name])
    return stored


def expanded(state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """A state dict as `in_int8` made it -> all its numbers in float32, without scales; others as they are.

    Raises ValueError for a weight in int8 without its scales, or with scales of another shape.
    """
    names = [name for name, tensor in state.items() if tensor.dtype == torch.int8]
    if not names:
        return state
    for name in names:
        scale, sides = state.get(name + SCALE), state[name].ndim
        wanted = (len(state[name]), *[1] * (sides - 1)) if sides else ()
        if scale is None or scale.shape != wanted or not scale.is_floating_point():
            found = "missing" if scale is None else f"{scale.dtype} of shape {tuple(scale.shape)}"
            raise ValueError(f"{where}: {name} is stored in int8; expected {name}{SCALE} {wanted}, which is {found}")
    others = {name: tensor for name, tensor in state.items() if name.removesuffix(SCALE) not in names}
    numbers = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in others.items()}
    return numbers | {name: state[name] * state[name + SCALE].float() for name in names}
