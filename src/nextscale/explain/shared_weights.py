"""Weights that the page's graphs and the bundled models have in common: packed once, read by both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def share_weights(graph: Path, stored: Path, location: str) -> int:
    """Let an int8 graph read its weights from a bundled safetensors file that holds the same numbers.

    ONNX's external data: the graph names `location`, a file beside it, with place and length of each weight. Products
    have their weights the other way round in a graph, and so a Transpose before them, which a runtime works out when
    it loads the graph. Weights that the file does not hold stay. Rewrites `graph`; returns the bytes that left it.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(graph)
    known = int8_places(stored)
    turned, moved = [], 0
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.INT8:
            continue
        numbers = numpy_helper.to_array(tensor)
        straight, other = numbers.tobytes(), np.ascontiguousarray(numbers.T)
        if straight in known:
            place = known[straight]
        elif numbers.ndim == 2 and other.tobytes() in known:
            place = known[other.tobytes()]
            turned.append(helper.make_node("Transpose", [f"{tensor.name}_stored"], [tensor.name], perm=[1, 0]))
            tensor.name, tensor.dims[:] = f"{tensor.name}_stored", other.shape
        else:
            continue
        set_external(tensor, location, place, numbers.nbytes)
        moved += numbers.nbytes
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*turned, *nodes])
    graph.write_bytes(model.SerializeToString())
    return moved


def int8_places(path: Path) -> dict[bytes, int]:
    """Where in a safetensors file each of its tensors in int8 begins, by its bytes."""
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:begin])
    spans = [about["data_offsets"] for about in header.values() if about.get("dtype") == "I8"]
    return {content[begin + start : begin + end]: begin + start for start, end in spans}


def set_external(tensor: Any, location: str, offset: int, length: int) -> None:
    """Take a tensor's numbers out of its graph; they stand in a file."""
    from onnx import TensorProto

    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
