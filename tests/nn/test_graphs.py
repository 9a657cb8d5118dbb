"""Calls through graphs: padding, what is kept, what happens when a capture fails; captured ones on a GPU."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nextscale.nn import graphs
from nextscale.nn.cuda import plain_expressions
from nextscale.nn.graphs import GraphedModule, Graphs, padded, padded_size, powers_of_two, use_graphs


@given(st.integers(1, 300))
def test_a_batch_is_padded_to_the_next_power_of_two(batch: int) -> None:
    size = padded_size(batch)
    assert size.bit_count() == 1 and batch <= size < 2 * batch


@given(st.integers(1, 300), st.integers(0, 6))
def test_parts_are_powers_of_two_and_add_up(count: int, exponent: int) -> None:
    parts = powers_of_two(count, 2**exponent)
    assert sum(parts) == count and parts == sorted(parts, reverse=True)
    assert all(part.bit_count() == 1 and part <= 2**exponent for part in parts)
    assert powers_of_two(13, 8) == [8, 4, 1]


def test_padding_repeats_the_last_row() -> None:
    x = torch.arange(6).view(3, 2)
    assert padded(x, 5).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert padded(x, 3) is x


class Called:
    """A function of two inputs that remembers the batches it was called with."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(x))
        return x + y, x.unsqueeze(1) * 2


class FakeRecorder:
    """In the place of CUDA: a "graph" computes again into the same outputs."""

    made: ClassVar[list[Callable]] = []

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, function: Callable, inputs: Sequence[Tensor]) -> Callable:
        outputs = [each.clone() for each in function(*inputs)]

        def replay(*given: Tensor) -> list[Tensor]:
            for own, new in zip(outputs, function(*given), strict=True):
                own.copy_(new)
            return outputs

        FakeRecorder.made.append(replay)
        return replay


class BrokenRecorder(FakeRecorder):
    def __call__(self, function: Callable, inputs: Sequence[Tensor]) -> Callable:
        raise torch.OutOfMemoryError("out of memory\nand much more")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Callable]:
    monkeypatch.setattr(graphs, "Recorder", FakeRecorder)
    FakeRecorder.made = []
    return FakeRecorder.made


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 4, 5])
def test_outputs_are_those_of_the_function(fake: list, batch: int, capture: bool) -> None:
    function, calls = Called(), Graphs(capture)
    x, y = torch.arange(batch), torch.arange(batch) * 10
    for _ in range(3):
        one, two = calls("sum", function, x, y)
        assert torch.equal(one, x + y) and torch.equal(two, x.unsqueeze(1) * 2)
    assert set(function.batches) == {padded_size(batch)}
    assert len(fake) == capture


def test_a_caller_may_keep_what_it_got(fake: list) -> None:
    calls, ones = Graphs(), torch.ones(2)
    calls("sum", Called(), ones, ones)
    first = calls("sum", Called(), ones, ones)[0]
    second = calls("sum", Called(), ones, 5 * ones)[0]
    assert first.tolist() == [2, 2] and second.tolist() == [6, 6]


def test_a_graph_serves_a_key_and_what_inputs_look_like(fake: list) -> None:
    calls = Graphs()
    x = torch.ones(4)
    for _ in range(3):
        for key, inputs in [
            ("a", x), ("a", x[:3]), ("a", 2 * x),  # one
            ("b", x), ("a", x[:2]), ("a", x.double()), ("a", torch.ones(4, 2)),  # one each
        ]:  # fmt: skip
            calls(key, Called(), inputs, inputs)
    assert len(fake) == 5


def test_the_first_use_takes_no_graph(fake: list) -> None:
    calls, x = Graphs(), torch.ones(1)
    for made in (0, 1, 1):
        calls("sum", Called(), x, x)
        assert len(fake) == made


def test_the_graph_that_was_not_used_for_longest_goes(fake: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "KEPT", 2)
    calls, x = Graphs(), torch.ones(1)
    for key in ("a", "a", "b", "b", "a", "c", "c", "a"):
        calls(key, Called(), x, x)
    assert len(fake) == 3 and len(calls.kept) == 2
    calls("b", Called(), x, x)
    assert len(fake) == 4
    calls.clear()
    assert not calls.kept and calls.recorder is None


def test_after_a_failed_capture_all_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(graphs, "Recorder", BrokenRecorder)
    calls, x = Graphs(), torch.ones(3)
    for _ in range(3):
        assert calls("sum", Called(), x, x)[0].tolist() == [2, 2, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graphs from here on, which is slower: a capture failed (out of memory)"
    ]


def test_an_error_of_the_function_is_the_callers(fake: list) -> None:
    def wrong(x: Tensor) -> tuple[Tensor]:
        raise ValueError("x is wrong")

    with pytest.raises(ValueError, match="x is wrong"):
        Graphs()("wrong", wrong, torch.ones(1))


def test_plain_expressions_are_not_captured(fake: list) -> None:
    calls = Graphs()
    with plain_expressions():
        for _ in range(3):
            calls("sum", Called(), torch.ones(1), torch.ones(1))
    assert fake == []


class Doubling(GraphedModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


def test_graphs_are_for_cuda_with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    module, plain = Doubling(), nn.Linear(1, 1)
    for device, compiles, wanted in [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]:
        monkeypatch.setattr(graphs.cuda, "compiles", lambda device, found=compiles: found)
        use_graphs(True, torch.device(device), module, plain)
        assert (module.graphs is not None) == wanted and not hasattr(plain, "graphs")
        use_graphs(False, torch.device(device), module)
        assert module.graphs is None


def test_a_module_that_moves_forgets_its_graphs(fake: list) -> None:
    module = Doubling()
    module.graphs = Graphs()
    for _ in range(2):
        module.graphs("sum", Called(), torch.ones(1), torch.ones(1))
    assert module.graphs.kept
    module.to(torch.float64)
    assert not module.graphs.kept


def test_a_copy_has_graphs_of_its_own(fake: list) -> None:
    calls = Graphs()
    for _ in range(2):
        calls("sum", Called(), torch.ones(1), torch.ones(1))
    assert calls.kept
    for other in (copy.deepcopy(calls), pickle.loads(pickle.dumps(calls))):
        assert other.capture and not other.kept and other.lock is not calls.lock
    assert not copy.copy(Graphs(False)).capture


@pytest.mark.gpu
def test_replays_read_weights_where_they_lie_and_take_no_more_memory() -> None:
    layer, calls = nn.Linear(64, 64).cuda().requires_grad_(False), Graphs()
    before = 0
    for number in range(20):
        x = torch.randn(3 + number % 2, 64, device="cuda")
        layer.weight.normal_()
        found = calls("layer", lambda x: (layer(x),), x)[0]
        torch.testing.assert_close(found, layer(x))
        before = torch.cuda.memory_reserved() if number == 2 else before
    assert len(calls.kept) == 1 and calls.capture
    assert torch.cuda.memory_reserved() <= before


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_the_stream_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    def fails(x: Tensor) -> tuple[Tensor]:
        doubled = 2 * x
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("cannot be captured")
        return (doubled,)

    calls, x = Graphs(), torch.arange(3.0, device="cuda")
    for _ in range(3):
        assert calls("fails", fails, x)[0].tolist() == [0, 2, 4]
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert len(caplog.records) == 1 and not calls.capture
    calls = Graphs()
    for _ in range(3):
        assert calls("works", lambda x: (2 * x,), x)[0].tolist() == [0, 2, 4]
    assert calls.kept
