"""The linear layer of the transformers.

Shapes: I inputs, O outputs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """(..., I) -> (..., O), then GELU (tanh) if `gelu`; a call may replace the bias."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, gelu: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.gelu = gelu

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        output = F.linear(input, self.weight, self.bias if bias is None else bias)
        return F.gelu(output, approximate="tanh") if self.gelu else output
