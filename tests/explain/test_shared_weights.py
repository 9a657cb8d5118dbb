"""A graph that reads its weights from a bundled file computes what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nextscale.explain.shared_weights import share_weights
from nextscale.export.narrow import in_int8
from nextscale.int8_weights import SCALE, rounded

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def written(path: Path, weights: dict[str, np.ndarray]) -> bytes:
    """A convolution, a product of its pixels and another product, in int8 as an export writes them."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["images", "conv"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "first"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["logits"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("images", "logits")]
    numbers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "toy", ports[:1], ports[1:], numbers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(in_int8(model), path)
    return path.read_bytes()


def test_shared_weights_change_nothing(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    conv, first, second = (torch.randn(shape, generator=generator) for shape in ((32, 32, 3, 3), (96, 64), (64, 96)))
    graph, stored = tmp_path / "graph.onnx", tmp_path / "weights.safetensors"
    before = written(graph, {"conv": conv.numpy(), "first": first.T.contiguous().numpy(), "second": second.T.numpy()})
    state = {"bias": torch.zeros(3)}
    for name, weight in (("conv", conv), ("first", first)):  # not the second
        state[name], state[name + SCALE] = rounded(weight)
    save_file(state, stored)

    images = torch.randn(2, 32, 6, 66, generator=generator).numpy()
    wanted = onnxruntime.InferenceSession(before).run(None, {"images": images})[0]
    moved = share_weights(graph, stored, stored.name)
    assert moved == conv.numel() + first.numel()
    assert len(before) - moved < len(graph.read_bytes()) < len(before) - moved + 1000
    found = onnxruntime.InferenceSession(graph).run(None, {"images": images})[0]
    np.testing.assert_array_equal(found, wanted)
    kept = {tensor.name for tensor in onnx.load(graph, load_external_data=False).graph.initializer if tensor.raw_data}
    assert {"second_int8"} == {name for name in kept if name.endswith("_int8")}


def test_a_file_with_other_weights_is_not_read(tmp_path: Path) -> None:
    graph, stored = tmp_path / "graph.onnx", tmp_path / "weights.safetensors"
    weights = {"conv": np.ones((32, 32, 3, 3), np.float32), "first": np.ones((64, 96), np.float32)}
    weights["second"] = np.ones((96, 64), np.float32)
    written(graph, weights)
    save_file({"first": torch.full((96, 64), 5, dtype=torch.int8)}, stored)
    assert share_weights(graph, stored, stored.name) == 0
    assert not any(tensor.external_data for tensor in onnx.load(graph).graph.initializer)
