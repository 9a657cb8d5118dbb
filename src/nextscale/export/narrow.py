"""Graphs in fewer bits, made from those in float32; what goes in and out stays float32."""

from __future__ import annotations

from typing import Any

import numpy as np

IN_FLOAT32 = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "ReduceL2", "Softmax")
"""Operators that stay in float32 among those in fp16: norms and softmax."""
SMALLEST = 4096
"""Weights with fewer numbers stay in float32."""


def in_half(model: Any) -> Any:
    """A graph with weights and activations in fp16; norms, softmax and what gives the first output (logits) stay.

    Takes the ModelProto apart.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    kept = [*DEFAULT_OP_BLOCK_LIST, *IN_FLOAT32]
    last = last_product(model.graph)
    model = convert_float_to_float16(model, keep_io_types=True, op_block_list=kept, node_block_list=last)
    OnnxModel.graph_topological_sort(model.graph)  # its conversions of inputs stand at the end
    del model.graph.value_info[:]  # with types from before
    return model


def last_product(graph: Any) -> list[str]:
    """Names of the nodes from the last product with weights, or convolution, to a graph's first output."""
    made_by = {output: node for node in graph.node for output in node.output}
    names: list[str] = []
    node = made_by.get(graph.output[0].name)
    while node is not None:
        names.append(node.name)
        node = None if node.op_type in ("MatMul", "Gemm", "Conv") else made_by.get(node.input[0])
    return names


def in_int8(model: Any) -> Any:
    """A graph with the weights of products and convolutions in int8, one scale per output (DequantizeLinear).

    It computes in float32. Changes the ModelProto.
    """
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        stored = weights.get(node.input[1]) if node.op_type in ("MatMul", "Conv") else None
        if stored is None or np.prod(stored.dims) < SMALLEST:
            continue
        values, axis = numpy_helper.to_array(stored), 0 if node.op_type == "Conv" else 1
        rounded, scales = rounded_to_int8(values, axis)
        names = [f"{stored.name}_int8", f"{stored.name}_scales"]
        model.graph.initializer.remove(weights.pop(stored.name))
        model.graph.initializer.extend(map(numpy_helper.from_array, (rounded, scales), names))
        nodes.append(helper.make_node("DequantizeLinear", names, [node.input[1]], axis=axis))
    before = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *before])
    return model


def rounded_to_int8(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers -127 to 127, and their scales along an axis: values are about numbers * scales."""
    others = tuple(side for side in range(values.ndim) if side != axis)
    scales = np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127, np.finfo(np.float32).tiny)
    return np.rint(values / scales).astype(np.int8), scales.astype(np.float32).ravel()
