"""Convolutions that are differentiated twice: values and both derivatives against torch's own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nextscale.nn.double_backward import conv2d, inputs_only


def derivatives(score: Tensor, x: Tensor, weight: Tensor) -> list[Tensor]:
    """First derivatives of a score, and those of the squared norm of its gradient in x."""
    (gradient,) = torch.autograd.grad(score, x, create_graph=True)
    second = torch.autograd.grad(gradient.square().sum() + score, (x, weight))
    return [gradient.detach(), *second]


@pytest.mark.parametrize(("stride", "padding", "groups", "kernel"), [(1, 1, 2, 3), (2, 1, 1, 4), (1, 0, 4, 1)])
def test_derivatives_are_torchs(stride: int, padding: int, groups: int, kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 4 // groups, kernel, kernel, dtype=torch.float64, requires_grad=True)
    how = {"stride": stride, "padding": padding, "groups": groups}
    ours, theirs = (one(x, weight, **how) for one in (conv2d, F.conv2d))
    assert torch.equal(ours, theirs)
    found, wanted = (derivatives(y.tanh().square().sum(), x, weight) for y in (ours, theirs))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(found, wanted, strict=True))


def test_gradients_of_inputs_alone_cost_no_others() -> None:
    x, weight = torch.randn(1, 1, 4, 4, requires_grad=True), torch.randn(1, 1, 3, 3, requires_grad=True)
    with inputs_only():
        conv2d(x, weight, padding=1).sum().backward()
    assert x.grad is not None and weight.grad is None
    conv2d(x, weight, padding=1).sum().backward()
    assert weight.grad is not None


def test_autocast_decides_the_type() -> None:
    x, weight = torch.randn(1, 4, 4, 4), torch.randn(4, 4, 1, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv2d(x, weight)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and weight.grad is not None and weight.grad.dtype == torch.float32
