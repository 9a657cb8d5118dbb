"""Linear layers: plain, with weights laid out for oneDNN's kernels, and in int8.

On CPU torch multiplies float32 matrices through MKL, which is slow on many processors, and reorders bf16 weights
at every call. A packed layer holds its weight reordered once, in place of the plain one.
Shapes: I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """(..., I) -> (..., O), with GELU (tanh) behind it where asked; a call may bring another bias."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, gelu: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.gelu = gelu

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        output = F.linear(input, self.weight, self.bias if bias is None else bias)
        return F.gelu(output, approximate="tanh") if self.gelu else output


class PackedLinear(nn.Module):
    """A `Linear` for inference on CPU: the weight in oneDNN's layout, bias and GELU fused into the product.

    Its state dict is the plain layer's.
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.gelu = linear.gelu
        self.bias = linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.weights = linear.weight.numel()

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = self.bias if bias is None else bias
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, bias, *fused(self.gelu))

    def plain(self) -> Linear:
        """The layer that this one was packed from."""
        weight = self.packed.to_dense()
        with torch.device("meta"):
            linear = Linear(weight.shape[1], weight.shape[0], bias=self.bias is not None, gelu=self.gelu)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.bias = self.bias
        return linear.train(self.training)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.packed.to_dense()


class QuantizedLinear(nn.Module):
    """A `Linear` for inference on CPU with int8 products: weights scaled per output, inputs per call.

    Activations come and go in their own type; sums are int32. Weights are rounded for good: there is no way back.
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.gelu = linear.gelu
        self.bias = linear.bias
        weight = linear.weight.detach().float()
        self.scales = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127  # (O,)
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.weights = weight.numel()

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        low, high = (float(value) for value in input.aminmax())
        scale = max(max(high, 0.0) - min(low, 0.0), 1e-12) / 255
        zero = round(-min(low, 0.0) / scale)  # the number that stands for 0
        middle = torch.full((1,), zero + 0.5)  # the conversion cuts off: half more rounds
        numbers = torch.add(middle, input.float(), alpha=1 / scale).clamp_(0, 255).to(torch.uint8)
        bias = self.bias if bias is None else bias
        bias = None if bias is None else bias.float()
        output = torch.ops.onednn.qlinear_pointwise(
            numbers.flatten(0, -2), scale, zero, self.packed, self.scales, self.zero_points, bias, 1.0, 0, input.dtype,
            *fused(self.gelu),
        )  # fmt: skip
        return output.unflatten(0, input.shape[:-1])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise ValueError("a model in int8 cannot be saved; load it in another precision first")


def fused(gelu: bool) -> tuple[str, list[None], str]:
    """What oneDNN does with a product before it is written: name, arguments, algorithm."""
    return ("gelu", [], "tanh") if gelu else ("none", [], "")


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has kernels for this type on this device."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_linears(module: nn.Module, kind: Callable[[Linear], nn.Module] = PackedLinear) -> None:
    """Replace every `Linear` inside by its packed form. For inference: packed weights take no gradients."""
    for name, child in module.named_children():
        if isinstance(child, Linear):
            setattr(module, name, kind(child))
        else:
            pack_linears(child, kind)


def unpack_linears(module: nn.Module) -> None:
    """The inverse of `pack_linears`. Raises ValueError where weights are in int8."""
    for name, child in module.named_children():
        if isinstance(child, QuantizedLinear):
            raise ValueError("a model in int8 cannot change its precision; load it again")
        if isinstance(child, PackedLinear):
            setattr(module, name, child.plain())
        else:
            unpack_linears(child)


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module, those of packed layers too."""
    packed = (child.weights for child in module.modules() if isinstance(child, (PackedLinear, QuantizedLinear)))
    return sum(parameter.numel() for parameter in module.parameters()) + sum(packed)
