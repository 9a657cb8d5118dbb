"""Linear layers, plain and with weights laid out for oneDNN's kernels.

On CPU torch multiplies float32 matrices through MKL, which is slow on many processors, and reorders bf16 weights
at every call. A packed layer holds its weight reordered once, in place of the plain one.
Shapes: N rows of any leading shape, I inputs, O outputs.
"""

from __future__ import annotations

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

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        activation = ("gelu", [], "tanh") if self.gelu else ("none", [], "")
        bias = self.bias if bias is None else bias
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, bias, *activation)

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


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has kernels for this type on this device."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_linears(module: nn.Module) -> None:
    """Replace every `Linear` inside by its packed form. For inference: packed weights take no gradients."""
    for name, child in module.named_children():
        if isinstance(child, Linear):
            setattr(module, name, PackedLinear(child))
        else:
            pack_linears(child)


def unpack_linears(module: nn.Module) -> None:
    """The inverse of `pack_linears`."""
    for name, child in module.named_children():
        if isinstance(child, PackedLinear):
            setattr(module, name, child.plain())
        else:
            unpack_linears(child)
