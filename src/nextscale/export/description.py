"""What sampling.json says: everything that one needs beside the graphs and tables to sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nextscale import __version__
from nextscale.checkpoint import fingerprint
from nextscale.export.config import OnnxConfig
from nextscale.export.tables import phi_numbers
from nextscale.nn import HEAD_WIDTH
from nextscale.pipeline import VARPipeline
from nextscale.sampling.draw import guidance_strengths
from nextscale.sampling.spatial_guidance import spatial_strengths

FORMAT = 1
"""Version of sampling.json's layout."""
RULES = {
    "read": "accumulated: a part reads reduce.K of the accumulated map; codes: the codebook's rows of the part before",
    "accumulate": "accumulated += phi.N * (enlarge.K @ codes) + phi_bias.N, a 3 x 3 convolution, N = phi[K]",
    "guidance": "(1 + t) conditional - t unconditional logits, t = guidance * ramp[part]",
    "spatial_guidance": "then, after the first part: logits + s (logits - prior.K @ guided logits of the part before)",
    "draw": "logits / temperature; top-k keeps the k likeliest; top-p, after it, keeps each token before which less "
    "than p is gathered, in falling order; 0 is off; the token is the argmax of what is kept plus Gumbel noise",
    "noise": "-log(-log(1 - u)), u = (r + 0.5)(2^-31 - 2^-55), r the upper 31 of 32 bits: Philox4x64-10 with the key "
    "(seed, 0) and counters from (0, part, 0, 0), each 8 numbers, low half of a word first; a position begins with a "
    "new counter",
}
"""How the rest is meant, for readers."""


def describe(
    pipeline: VARPipeline, config: OnnxConfig, files: dict[str, dict[str, Any]], *, source: str
) -> dict[str, Any]:
    """sampling.json's content. `files` says what each file takes, gives and weighs."""
    model, tokenizer = pipeline.transformer.config, pipeline.tokenizer
    sampling = pipeline.sampling()
    by_scale = pipeline.family.kind == "var"
    parts = len(model.sequence)
    ramp = guidance_strengths(replace(sampling, guidance=1.0), parts) if by_scale else [1.0] * parts
    return {
        "format": FORMAT,
        "kind": pipeline.family.kind,
        "source": source,
        "licence": config.licence,
        "written_by": f"nextscale {__version__}",
        "dtype": config.dtype,
        "opset": config.opset,
        "tokenizer": fingerprint(tokenizer),
        "image_size": list(tokenizer.config.image_size),
        "scales": tokenizer.schedule.to_list(),
        "phi": phi_numbers(tokenizer.quantizer),
        "codebook_size": model.codebook_size,
        "latent_channels": model.latent_channels,
        "parts": list(model.sequence.lengths),
        "read": "accumulated" if by_scale else "codes",
        "cache": [2 * model.depth, model.heads, 0, HEAD_WIDTH],
        "classes": model.classes,
        "class_names": list(pipeline.config.class_names),
        "unconditional": model.unconditional,
        "sampling": {
            "guidance": sampling.guidance,
            "ramp": ramp,
            "spatial_guidance": spatial_strengths(sampling.spatial_guidance, parts),
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "temperature": sampling.temperature,
        },
        "files": files,
        "rules": RULES,
    }


def describe_graph(model: Any, path: Path) -> dict[str, Any]:
    """Inputs and outputs of a graph by name, with their types and shapes; sides that vary are words."""
    return {"bytes": path.stat().st_size, "inputs": ports(model.graph.input), "outputs": ports(model.graph.output)}


def ports(values: Any) -> dict[str, Any]:
    """Type and shape of each value by its name."""
    from onnx import helper

    described = {}
    for value in values:
        tensor = value.type.tensor_type
        sides = [side.dim_param or side.dim_value for side in tensor.shape.dim]
        described[value.name] = {"dtype": str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), "shape": sides}
    return described
