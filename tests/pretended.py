"""A device that is pretended: its tensors say they are elsewhere, lie on the CPU, and never mix with the CPU's.

Where there is no GPU, tests of devices run on it: a tensor made without a device, or moved one operation too late, is
an error as it would be on CUDA, and what is computed can be compared. Nothing that asks for CUDA by name is tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
"""Its name: torch lets tensors of this device be made anywhere, and calls no driver for them."""
CROSSES = {"aten::_to_copy", "aten::copy_"}
"""Operations that take tensors of two devices."""
INDEXES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
"""Operations in which a tensor of any device may have indices of the CPU."""


class Pretended(Tensor):
    """A tensor of the pretended device."""

    held: Tensor
    "What it holds, on the CPU."
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        layout: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=DEVICE, **layout)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the CPU; what it returns is pretended where an input is, or where `device` asks for it."""
    name = func._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, Pretended)}
    if ours and name not in CROSSES:
        checked = args[:1] if name in INDEXES else tensors
        wrong = [tuple(one.shape) for one in checked if one.ndim and not isinstance(one, Pretended)]
        assert not wrong, f"{name} mixes tensors of the CPU {wrong} with those of another device"
    target = kwargs.get("device")
    if target is not None:
        kwargs = kwargs | {"device": "cpu"}
    plain_args, plain_kwargs = tree_map(plain, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if name == "aten::copy_":
        return args[0]
    pretend = bool(ours) if target is None else torch.device(target).type == DEVICE.type

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or not pretend:
            return value
        return ours[id(value)] if id(value) in ours else Pretended(value)  # in place: the tensor that was given

    return tree_map(wrapped, result)


def plain(value: Any) -> Any:
    """What a pretended tensor holds; other values as they are."""
    return value.held if isinstance(value, Pretended) else value


class Operations(TorchDispatchMode):
    """Operations without a pretended input, such as those that make tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Calls(TorchFunctionMode):
    """Calls that torch answers without an operation, from memory that a pretended tensor does not have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return moved(func(*args, **{name: value for name, value in kwargs.items() if name != "device"}))
        if isinstance(first, Pretended):
            if func is Tensor.new_tensor:
                return moved(torch.tensor(*args[1:], **{"dtype": first.dtype} | kwargs))
            if func is Tensor.tolist:
                return first.held.tolist()
            if func is Tensor.__getitem__ and isinstance(args[1], list):
                return first[torch.tensor(args[1])]
            assert func is not Tensor.numpy, "numpy of a tensor that is not on the CPU"
        return func(*args, **kwargs)


def moved(tensor: Tensor) -> Tensor:
    return torch.ops.aten._to_copy(tensor, device=DEVICE)


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Let tensors be made on, and moved to, the pretended device. There is no autocast on it."""
    with Operations(), Calls(), patch.object(torch, "autocast", lambda *_, **__: nullcontext()):
        yield DEVICE
