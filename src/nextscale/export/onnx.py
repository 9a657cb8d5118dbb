"""A model as ONNX graphs, tables and a description, from which any runtime samples.

folder/encoder.onnx              images -> features before quantisation
folder/transformer.onnx          one part: class, what it reads, cache -> logits, cache
folder/decoder.onnx              accumulated map -> images
folder/quantizer.safetensors     codebook, resizing and phi as tables
folder/sampling.json             how they are put together
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.checkpoint import module_from_state
from nextscale.environment import quiet_warnings
from nextscale.errors import require
from nextscale.export.config import OnnxConfig
from nextscale.export.description import describe, describe_graph
from nextscale.export.graphs import DecoderGraph, EncoderGraph, TransformerGraph
from nextscale.export.narrow import in_half, in_int8
from nextscale.export.tables import quantizer_tables
from nextscale.files import complete_folder, write_json
from nextscale.nn import HEAD_WIDTH
from nextscale.nn.block import AdaLNBlock
from nextscale.pipeline import VARPipeline
from nextscale.progress import Announce, silent
from nextscale.tokenizer.quantizer import ResidualQuantizer

KINDS = ("var", "raster")
"""Families that are exported."""
LARGEST = 2**31 - 2**24
"""Bytes of weights that a single ONNX file holds."""
NARROWED = {"fp32": lambda model: model, "fp16": in_half, "int8": in_int8}
SIDES = {"batch": 2, "length": 3, "known": 5}
"""Names of the sides that vary, and what they are while a graph is traced: never 0 or 1, which would be kept."""
TABLES, DESCRIPTION = "quantizer.safetensors", "sampling.json"


def export_onnx(
    pipeline: VARPipeline,
    folder: str | Path,
    *,
    config: OnnxConfig | None = None,
    source: str = "",
    progress: Announce = silent,
) -> dict[str, Any]:
    """Write a model for ONNX runtimes; returns what sampling.json says. The folder appears only when complete.

    The weights are those of the pipeline: load it with dtype="fp32" for the stored ones. `source` says where the model
    is from. `progress` announces a stage and returns the function that shows its progress. Raises ValueError where a
    package is missing, the folder holds something already, or the model is of a kind that is not exported (any but
    next-scale prediction and raster order of classes).
    """
    require("an export", "onnx", "onnxscript", "onnxruntime")
    folder, config = Path(folder), config or OnnxConfig()
    require_exportable(pipeline)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty; choose another folder")
    from safetensors.torch import save_file

    tokenizer, transformer = plain(pipeline.tokenizer), plain(pipeline.transformer)
    with complete_folder(folder) as partial:
        files, graphs = {}, graphs_of(tokenizer, transformer, watched=config.attention)
        advance = progress("graphs", len(graphs))
        for name, graph, inputs, outputs in graphs:
            path = partial / f"{name}.onnx"
            files[path.name] = write_graph(path, graph, inputs, outputs, config)
            advance(len(files))
        save_file(quantizer_tables(tokenizer.quantizer), partial / TABLES)
        files[TABLES] = {"bytes": (partial / TABLES).stat().st_size}
        description = describe(pipeline, config, files, source=source)
        write_json(partial / DESCRIPTION, description)
        for path in partial.iterdir():  # safetensors makes its file readable for the owner alone
            path.chmod((partial / DESCRIPTION).stat().st_mode)
    return description


def require_exportable(pipeline: VARPipeline) -> None:
    """Raises ValueError for a model that graphs and sampling.json cannot describe."""
    model, family = pipeline.transformer, pipeline.family
    if family.kind not in KINDS:
        raise ValueError(f"only next-scale prediction and raster order are exported to ONNX; this is {family.title}")
    if not all(type(block) is AdaLNBlock for block in model.blocks) or not hasattr(model, "class_embedding"):
        raise ValueError("only models of classes are exported to ONNX; this one has other conditions")
    if not model.config.sees_coarser:
        raise ValueError("models whose scales see themselves alone (attention: scale) are not exported to ONNX")
    if not isinstance(pipeline.tokenizer.quantizer, ResidualQuantizer):
        raise ValueError("only tokenizers with a codebook are exported to ONNX")
    if pipeline.config.refine_steps > 1:
        hint = "write a copy that draws it at once: nextscale convert MODEL --refine-steps 1 --out COPY"
        raise ValueError(f"this model draws its last map in several passes, which is not exported to ONNX; {hint}")
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    if 4 * count > LARGEST:
        raise ValueError(f"{4 * count / 1e9:.1f} GB of weights in float32 do not fit into an ONNX file, which holds 2")


def plain(module: Any) -> Any:
    """A copy on the CPU in float32 with plain layers. Raises ValueError for weights in int8."""
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in module.state_dict().items()}
    return module_from_state(type(module), module.config, state)


def graphs_of(
    tokenizer: Any, transformer: Any, *, watched: bool = False
) -> list[tuple[str, nn.Module, dict[str, Any], Sequence[str]]]:
    """Name, module, inputs and names of outputs of each graph; an input is an example type and its sides."""
    config, (height, width) = transformer.config, tokenizer.schedule.final
    images = {"images": (torch.float32, ("batch", 3, *tokenizer.config.image_size))}
    accumulated = {"accumulated": (torch.float32, ("batch", height * width, config.latent_channels))}
    part = {
        "classes": (torch.int32, ("batch",)),
        "latents": (torch.float32, ("batch", "length", config.latent_channels)),
        "cache": (torch.float32, ("batch", 2 * config.depth, config.heads, "known", HEAD_WIDTH)),
    }
    outputs = ["logits", "next_cache", *(["attention"] if watched else [])]
    return [
        ("encoder", EncoderGraph(tokenizer), images, ["features"]),
        ("transformer", TransformerGraph(transformer, watched=watched), part, outputs),
        ("decoder", DecoderGraph(tokenizer), accumulated, ["images"]),
    ]


def write_graph(
    path: Path, module: nn.Module, inputs: dict[str, Any], outputs: Sequence[str], config: OnnxConfig
) -> dict[str, Any]:
    """Trace, narrow, check and write one graph; returns what sampling.json says of it."""
    import onnx

    model = NARROWED[config.dtype](traced(module, inputs, outputs, config.opset))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return describe_graph(model, path)


@torch.no_grad()
def traced(module: nn.Module, inputs: dict[str, Any], outputs: Sequence[str], opset: int) -> Any:
    """The ModelProto of a module in float32, without notes of where it was traced."""
    examples = [example(dtype, sides) for dtype, sides in inputs.values()]
    vary = tuple(
        {axis: side for axis, side in enumerate(sides) if isinstance(side, str)} for _, sides in inputs.values()
    )
    with quiet_warnings():  # of the exporter about itself
        program = torch.onnx.export(
            module.eval(), tuple(examples), dynamo=True, opset_version=opset, dynamic_shapes=vary, verbose=False,
            input_names=list(inputs), output_names=list(outputs),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    return model


def example(dtype: torch.dtype, sides: Sequence[int | str]) -> Tensor:
    """Zeros of a type, with each side that varies at its size while tracing."""
    return torch.zeros([SIDES[side] if isinstance(side, str) else side for side in sides], dtype=dtype)
