"""Graphs in fewer bits, made from those in float32; what goes in and out stays float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nextscale.int8_weights import rounded

IN_FLOAT32 = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "ReduceL2", "Softmax", "Attention")
"""Operators that stay in float32 among those in fp16: norms and softmax, which `Attention` has inside."""
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
    """A graph whose weights of products and convolutions are stored in int8, one scale per output.

    They become float32 when a runtime loads it, and it computes in float32: any runtime gives the same, which holds
    neither for DequantizeLinear, which some merge with a product in int8, nor for activations in int8. Changes the
    ModelProto.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        stored = weights.get(node.input[1]) if node.op_type in ("MatMul", "Conv") else None
        if stored is None or np.prod(stored.dims) < SMALLEST:
            continue
        rounded = rounded_to_int8(numpy_helper.to_array(stored), axis=0 if node.op_type == "Conv" else 1)
        names = [f"{stored.name}_int8", f"{stored.name}_scales"]
        model.graph.initializer.remove(weights.pop(stored.name))
        model.graph.initializer.extend(map(numpy_helper.from_array, rounded, names))
        numbers = f"{stored.name}_numbers"
        nodes.append(helper.make_node("Cast", names[:1], [numbers], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [numbers, names[1]], [node.input[1]]))
    before = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *before])
    return model


def rounded_to_int8(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers -127 to 127, and a float32 scale for each index of an axis: values are about numbers * scales."""
    parts = rounded(torch.from_numpy(np.moveaxis(values, axis, 0).copy()))
    numbers, scales = (np.ascontiguousarray(np.moveaxis(part.numpy(), 0, axis)) for part in parts)
    return numbers, scales
