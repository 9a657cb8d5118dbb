"""Settings of an export, without torch so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = ("fp32", "fp16", "int8")
OPSETS = range(18, 24)
"""Versions of ONNX's operators that are tried."""


@dataclass(frozen=True, kw_only=True)
class OnnxConfig:
    """How graphs are written; what goes in and out is float32 in every case."""

    dtype: str = "fp32"
    "fp32; fp16: half the size, for GPUs; int8: weights alone, a quarter of the size."
    opset: int = 20
    "Version of ONNX's operators, 18 to 23."
    attention: bool = False
    "The transformer also gives its attention, for whoever wants to look at it."
    licence: str = ""
    "Licence of the weights, for whoever gets the files [default: that of a bundled model]"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not known; expected one of {', '.join(DTYPES)}")
        if self.opset not in OPSETS:
            raise ValueError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {self.opset}")
