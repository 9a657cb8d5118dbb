"""Functions of tensors as CUDA graphs: captured at their second use, then replayed at the cost of one launch.

Shapes: B rows of a batch, the first side of every input and output.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

import torch
from torch import Tensor, nn

from nextscale.nn import cuda

logger = logging.getLogger(__name__)

KEPT = 24
"""Captured graphs that are kept, and first uses that are remembered."""
WARM_UPS = 2
"""Runs before a capture: they compile kernels, plan products and allocate what outlives a run."""

Function = Callable[..., Sequence[Tensor]]
"""Inputs (B, ...) -> outputs (B, ...), row by row; nothing in it may wait for the device."""


def padded_size(batch: int) -> int:
    """The power of two that holds a batch: few sizes are captured."""
    return 1 << (batch - 1).bit_length()


def powers_of_two(count: int, most: int) -> list[int]:
    """Sizes that add up to `count`, largest first and none above `most`, itself one: 13 by 8 is 8, 4, 1."""
    rest = count % most
    return [most] * (count // most) + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


def padded(x: Tensor, size: int) -> Tensor:
    """(B, ...) -> (size, ...): the last row repeated."""
    missing = size - len(x)
    return x if missing == 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])


@dataclass(frozen=True)
class Captured:
    """A graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Outputs of a replay, which the next replay overwrites."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.outputs


class Recorder:
    """Captures functions on one stream; their graphs share a pool of memory, because they run one after the other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Captured:
        with torch.inference_mode(False):  # under it, they could not be written to outside of it
            own = [each.clone() for each in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self.stream.wait_stream(current)
            try:
                with torch.cuda.stream(self.stream):
                    for _ in range(WARM_UPS):
                        function(*own)
                current.wait_stream(self.stream)
                # Other threads, such as a server's, may allocate memory meanwhile.
                with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                    outputs = function(*own)
            finally:
                torch.cuda.set_stream(current)  # a capture that fails leaves its own
        return Captured(graph, own, outputs)


class Graphs:
    """Calls functions through graphs, one for each size of a batch, captured when that comes a second time.

    A capture takes longer than it saves once: the first time, a function runs directly. Batches are padded to powers of
    two, always. Weights are read where they lie: changes in place count, but a model that moves needs `clear`. Plain
    expressions in place of kernels are not captured: some wait for the host. Where a capture fails, a logged line says
    so, and functions run without graphs from then on.
    """

    def __init__(self, capture: bool = True) -> None:
        """Without `capture`, functions run directly, on batches padded in the same way."""
        self.capture = capture
        self.kept: OrderedDict[Hashable, Captured] = OrderedDict()
        self.seen: deque[Hashable] = deque(maxlen=KEPT)
        self.recorder: Recorder | None = None
        self.lock = Lock()

    def __call__(self, key: Hashable, function: Function, *inputs: Tensor) -> list[Tensor]:
        """Outputs of `function`, without the padding. `key` names the function and all that it reads beside inputs."""
        batch = len(inputs[0])
        whole = [padded(each, padded_size(batch)) for each in inputs]
        with self.lock:
            captured = self._captured(key, function, whole) if self.capture and cuda.enabled else None
            if captured is not None:
                return [each[:batch].clone() for each in captured(*whole)]
        return [each[:batch] for each in function(*whole)]

    def __reduce__(self) -> tuple[type[Graphs], tuple[bool]]:
        """A copy has no graphs: those here read the weights of the original."""
        return Graphs, (self.capture,)

    def clear(self) -> None:
        """Forget all graphs and give their memory back."""
        while self.kept:
            self._forget_oldest()
        self.recorder = None  # its pool went with the last graph

    def _captured(self, key: Hashable, function: Function, inputs: Sequence[Tensor]) -> Captured | None:
        """The graph of a function for inputs like these; None at the first use, and where a capture fails."""
        kind: Any = (key, *((each.shape, each.dtype) for each in inputs))
        if kind not in self.kept:
            if kind not in self.seen:
                self.seen.append(kind)
                return None
            try:
                self.recorder = self.recorder or Recorder(inputs[0].device)
                made = self.recorder(function, inputs)
            except RuntimeError as error:  # out of memory, too
                reason = str(error).strip().partition("\n")[0]
                logger.warning("no CUDA graphs from here on, which is slower: a capture failed (%s)", reason)
                self.capture = False
                self.clear()
                return None
            self.kept[kind] = made
            if len(self.kept) > KEPT:
                self._forget_oldest()
        self.kept.move_to_end(kind)
        return self.kept[kind]

    def _forget_oldest(self) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # it may still be running
        self.kept.popitem(last=False)


class GraphedModule(nn.Module):
    """A module that may compute through graphs, which are forgotten when its weights move."""

    graphs: Graphs | None = None
    "Where its inference goes through graphs; whoever sets it says for which device."

    def _apply(self, *args: Any, **options: Any) -> Self:
        if self.graphs is not None:
            self.graphs.clear()
        return super()._apply(*args, **options)


def use_graphs(wanted: bool, device: torch.device, *modules: Any) -> None:
    """Let the modules that can compute through new graphs, which they share, or through none.

    There are graphs only on CUDA with Triton: without it, drawing waits for the host, and a capture that fails over
    that leaves torch's allocator in doubt.
    """
    graphs = Graphs() if wanted and device.type == "cuda" and cuda.compiles(device) else None
    for module in modules:
        if isinstance(module, GraphedModule):
            module.graphs = graphs
