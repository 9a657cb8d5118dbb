"""Fast forms of `Linear` for inference on CPU: weights in the layout of oneDNN's kernels, and int8.

On CPU torch multiplies float32 matrices through MKL, which is slow on many processors, and reorders bf16 weights
at every call. A packed layer holds the reordered weight instead of the plain one.
Shapes: I inputs, O outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.nn.attention import CrossAttention, SelfAttention
from nextscale.nn.block import FeedForward
from nextscale.nn.linear import Linear
from nextscale.runtime import mkldnn_supports_bf16, multiplies_bf16

logger = logging.getLogger("nextscale")

INT8_RANGES = ((127, 255), (90, 181))
"""Largest weight and largest input of int8 products. Processors without VNNI add two products in 16 bits, up to 32,767:
2 * 127 * 255 exceeds it, 2 * 90 * 181 does not."""
CHECKED_ROWS = (1, 2, 16, 128)
"""Numbers of input rows with which kernels are checked: oneDNN chooses a kernel by them."""


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

    Inputs and outputs have the activations' type; sums are int32. The rounded weights cannot be unpacked. Raises
    ValueError where the processor's int8 products are wrong.
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.gelu = linear.gelu
        self.bias = linear.bias
        weight = linear.weight.detach().float()
        largest_weight, self.largest_input = int8_range()
        self.scales = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / largest_weight  # (O,)
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.weights = weight.numel()

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        low, high = (float(value) for value in input.aminmax())
        scale = max(max(high, 0.0) - min(low, 0.0), 1e-12) / self.largest_input
        zero = round(-min(low, 0.0) / scale)  # the number that stands for 0
        middle = torch.full((1,), zero + 0.5)  # the conversion truncates: adding 0.5 rounds
        numbers = torch.add(middle, input.float(), alpha=1 / scale).clamp_(0, self.largest_input).to(torch.uint8)
        bias = self.bias if bias is None else bias
        bias = None if bias is None else bias.float()
        weight, output = (self.packed, self.scales, self.zero_points), (1.0, 0, input.dtype)
        product = torch.ops.onednn.qlinear_pointwise(
            numbers.reshape(-1, input.shape[-1]), scale, zero, *weight, bias, *output, *fused(self.gelu)
        )
        return product.view(*input.shape[:-1], product.shape[-1])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise ValueError("a model in int8 cannot be saved; load it in another precision first")


def fused(gelu: bool) -> tuple[str, list[None], str]:
    """What oneDNN applies to a product before it writes it: name, arguments, algorithm."""
    return ("gelu", [], "tanh") if gelu else ("none", [], "")


@lru_cache(maxsize=1)
def int8_range() -> tuple[int, int]:
    """Largest weight and largest input with which this processor's int8 products are exact.

    Logs a line when they are smaller than int8 allows. Raises ValueError when none of `INT8_RANGES` is exact.
    """
    for weight, top in INT8_RANGES:
        if int8_is_exact(weight, top):
            if (weight, top) != INT8_RANGES[0]:
                logger.warning(
                    f"this processor adds int8 products in 16 bits: weights are rounded to {weight} and inputs to "
                    f"{top} steps instead of 127 and 255, and a layer's error is 1.5 times as large"
                )
            return weight, top
    raise ValueError("precision int8: this processor's int8 products are wrong; use --precision auto")


def int8_is_exact(weight: int, top: int) -> bool:
    """Whether products of weights up to `weight` and inputs up to `top` are exact, the largest included."""
    inputs, outputs, generator = 256, 32, torch.Generator().manual_seed(0)
    weights_OI = torch.randint(-weight, weight + 1, (outputs, inputs), generator=generator).to(torch.int8)
    weights_OI[0], weights_OI[1] = weight, -weight
    packed = torch.ops.onednn.qlinear_prepack(weights_OI, None)
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    for rows in CHECKED_ROWS:
        numbers = torch.randint(0, top + 1, (rows, inputs), generator=generator).to(torch.uint8)
        numbers[0] = top
        output = torch.ops.onednn.qlinear_pointwise(
            numbers, 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, *fused(False)
        )
        if not torch.equal(output.long(), numbers.long() @ weights_OI.long().t()):
            return False
    return True


@lru_cache(maxsize=2)
def packing_is_right(dtype: torch.dtype) -> bool:
    """Whether packed layers equal plain ones in this type on this processor; logs a line if not."""
    generator = torch.Generator().manual_seed(0)
    plain = Linear(256, 96, gelu=True).requires_grad_(False)
    for parameter in plain.parameters():
        parameter.uniform_(-0.1, 0.1, generator=generator)
    plain.to(dtype)
    packed = PackedLinear(plain)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for rows in CHECKED_ROWS:
        x = torch.randn(rows, 256, generator=generator).to(dtype)
        if not torch.allclose(packed(x), plain(x), rtol=tolerance, atol=tolerance):
            logger.warning("this processor's packed products in %s are wrong: plain, slower ones are used", dtype)
            return False
    return True


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has kernels for this type on this device, and they are right."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    known = dtype == torch.float32 or (dtype == torch.bfloat16 and mkldnn_supports_bf16())
    return known and packing_is_right(dtype)


def pack_linears(module: nn.Module, kind: Callable[[Linear], nn.Module] = PackedLinear) -> None:
    """Replace every `Linear` inside by its packed form, for inference: packed weights take no gradients."""
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


def is_quantized(module: nn.Module) -> bool:
    """Whether a module multiplies int8 anywhere."""
    return any(isinstance(child, QuantizedLinear) for child in module.modules())


def narrow_matrices(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model to a device, the weights of its `Linear`s in `dtype` and everything else in float32.

    Biases of branches (attention and feed-forward) are in `dtype` too, and so are the branches; what they are added to,
    modulation and logits are in float32. So does autocast compute, which the models are trained with.
    """
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    kinds = SelfAttention, CrossAttention, FeedForward
    branches = [module for module in model.modules() if isinstance(module, kinds)]
    inner = [module for branch in branches for module in branch.modules() if isinstance(module, Linear)]
    narrow = {id(linear.weight) for linear in linears} | {id(linear.bias) for linear in inner}
    for parameter in model.parameters():
        parameter.data = parameter.data.to(device, dtype if id(parameter) in narrow else torch.float32)
    model.to(device)  # the buffers


def prepare(model: Any, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Move a model to a device, with the fastest layers for generation in a type.

    On CUDA only matrices have that type, in models of the package's `Linear`s. Returns the type of the activations,
    which in int8 is bf16 or float32. Raises ValueError for a model that is in int8 already, and for int8 where there
    are no blocks.
    """
    unpack_linears(model)
    if dtype == torch.int8:
        if not hasattr(model, "blocks"):
            raise ValueError("precision int8 is for the blocks of transformers, and this model has none; use auto")
        dtype = torch.bfloat16 if multiplies_bf16() else torch.float32
        for block in model.blocks:
            pack_linears(block.attention, QuantizedLinear)
            pack_linears(block.feed_forward, QuantizedLinear)
            if block.cross is not None:
                pack_linears(block.cross, QuantizedLinear)
    if device.type == "cuda" and any(isinstance(module, Linear) for module in model.modules()):
        narrow_matrices(model, device, dtype)
        return dtype
    model.to(device, dtype)
    for one in getattr(model, "models", (model,)):  # two models in turn have a head each
        if device.type == "cpu" and hasattr(one, "head"):
            one.head.float()  # bf16 would round the logits, and the head is a hundredth of the work
    if can_pack(device, dtype):
        pack_linears(model)
        for parameter in model.parameters():  # otherwise the few that are left keep the whole file mapped
            parameter.data = parameter.data.clone()
    return dtype


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module, including those of packed layers."""
    packed = (child.weights for child in module.modules() if isinstance(child, (PackedLinear, QuantizedLinear)))
    return sum(parameter.numel() for parameter in module.parameters()) + sum(packed)
