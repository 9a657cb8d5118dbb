"""Convolutions that are differentiated twice, as gradient penalties need it, at the speed of plain ones.

The gradients of a convolution are convolutions again: with respect to its input a transposed one, with respect to its
weight a correlation of both. Each is an operator here whose own gradients are the other two. Torch's second derivative
of a grouped convolution goes through the groups one by one instead.
Shapes: B batch, C and O channels, (H, W) pixels, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_inputs_only: ContextVar[bool] = ContextVar("inputs_only", default=False)


@contextmanager
def inputs_only() -> Iterator[None]:
    """`conv2d` computes no gradients of weights in here: autograd would, also where only those of inputs are asked."""
    token = _inputs_only.set(True)
    try:
        yield
    finally:
        _inputs_only.reset(token)


def gradient_penalties(scores: Tensor, images: Tensor) -> Tensor:
    """Squared norm of each score's gradient in its own image, (B,) and (B, 3, H, W) -> (B,): R1 at real images,
    R2 at made ones (arXiv 1801.04406, section 4.1).

    It can be differentiated itself.
    """
    with inputs_only():
        (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """`torch.nn.functional.conv2d` of (B, C, H, W) and (O, C / G, kh, kw); both in the type of autocast where it is on.

    H + 2 padding - kh, and the same of W, must be multiples of the stride.
    """
    if torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    return _Convolution.apply(x, weight, (stride, padding, groups))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, how: tuple[int, int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        stride, padding, groups = how
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, weight), (gradient,) = ctx.saved_tensors, gradients
        of_x = _Transposed.apply(gradient, weight, ctx.how) if ctx.needs_input_grad[0] else None
        wanted = ctx.needs_input_grad[1] and not _inputs_only.get()
        return of_x, _Correlation.apply(gradient, x, weight.shape, ctx.how) if wanted else None, None


class _Transposed(torch.autograd.Function):
    """The gradient of a convolution's input, from that of its output and the weight."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, how: tuple[int, int, int]) -> Tensor:
        ctx.save_for_backward(y, weight)
        ctx.how = how
        stride, padding, groups = how
        return F.conv_transpose2d(y, weight, stride=stride, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (y, weight), (gradient,) = ctx.saved_tensors, gradients
        of_y = _Convolution.apply(gradient, weight, ctx.how) if ctx.needs_input_grad[0] else None
        wanted = ctx.needs_input_grad[1] and not _inputs_only.get()
        return of_y, _Correlation.apply(y, gradient, weight.shape, ctx.how) if wanted else None, None


class _Correlation(torch.autograd.Function):
    """The gradient of a convolution's weight, from that of its output and the input."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, shape: torch.Size, how: tuple[int, int, int]) -> Tensor:
        ctx.save_for_backward(y, x)
        ctx.how = how
        stride, padding, groups = how
        pair = (stride, stride), (padding, padding), (1, 1), False, (0, 0), groups, (False, True, False)
        return torch.ops.aten.convolution_backward(y, x, x.new_empty(shape), None, *pair)[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (y, x), (gradient,) = ctx.saved_tensors, gradients
        of_y = _Convolution.apply(x, gradient, ctx.how) if ctx.needs_input_grad[0] else None
        of_x = _Transposed.apply(y, gradient, ctx.how) if ctx.needs_input_grad[1] else None
        return of_y, of_x, None, None
