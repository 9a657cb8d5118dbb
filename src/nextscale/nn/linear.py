"""The linear layer of the transformers.

Shapes: I inputs, O outputs, N rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.nn.cuda import uses_kernels


class Linear(nn.Linear):
    """(..., I) -> (..., O), then GELU (tanh) if `gelu`; a call may replace the bias.

    The output has the bias's type: a layer with weights in bf16 or fp16 and a bias in float32 gives its sums unrounded.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, gelu: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.gelu = gelu

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = self.bias if bias is None else bias
        if bias is not None and bias.dtype != self.weight.dtype:
            output = unrounded(input.to(self.weight.dtype), self.weight, bias)
        elif bias is not None and self.gelu and uses_kernels(input):
            # cuBLAS applies GELU in its tanh form to the sums; on CPU the same operator has the erf form.
            rows_NI = input.reshape(-1, self.in_features)
            output = torch.ops.aten._addmm_activation(bias, rows_NI, self.weight.t(), use_gelu=True)
            return output.view(*input.shape[:-1], self.out_features)
        else:
            output = F.linear(input, self.weight, bias)
        return F.gelu(output, approximate="tanh") if self.gelu else output


def unrounded(input: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """`F.linear` of numbers in 16 bits with a bias in float32 -> (..., O) float32, without rounding in between."""
    if not input.is_cuda or torch.is_grad_enabled():
        return F.linear(input.float(), weight_OI.float(), bias_O)
    rows_NI = input.reshape(-1, weight_OI.shape[1])
    output = torch.addmm(bias_O, rows_NI, weight_OI.t(), out_dtype=torch.float32)
    return output.view(*input.shape[:-1], len(weight_OI))
