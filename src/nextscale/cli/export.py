"""`nextscale export onnx`: a model for other runtimes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nextscale.cli.options import ConfigFile, ResultsFile, accepts, settle
from nextscale.cli.outputs import at_work, write_results
from nextscale.export.config import OnnxConfig


@dataclass(frozen=True, kw_only=True)
class ExportOptions(OnnxConfig, ResultsFile):
    """Settings of `nextscale export onnx`."""

    model: str = "demo"
    "demo, demo-raster, var-d16 ..., a model or run folder, the authors' .pth file, or a hub id."
    out: str = "out/onnx"
    "New or empty folder; it appears only when complete."


@accepts(ExportOptions, first=("model", "out", "dtype", "opset"))
def export_onnx_command(*, config: ConfigFile = "", given: Any = None) -> None:
    """Write a model as ONNX graphs, tables and a description of how to sample."""
    options = settle(ExportOptions, given, file=config)
    from nextscale.catalogue import TERMS, find_model
    from nextscale.export import export_onnx
    from nextscale.pipeline import VARPipeline

    stored = find_model(options.model)
    # As they are stored: a pipeline of the generation's precision would round and pack its weights.
    pipeline = VARPipeline(stored.tokenizer(), stored.transformer(), stored.config())
    chosen = {field.name: getattr(options, field.name) for field in fields(OnnxConfig)}
    chosen["licence"] = options.licence or TERMS.get(options.model, "")
    with at_work() as progress:
        how: dict[str, Any] = {"config": OnnxConfig(**chosen), "source": options.model, "progress": progress}
        description = export_onnx(pipeline, options.out, **how)
    write_results(options.json, {"out": options.out, **description})
    for name, about in description["files"].items():
        print(f"{Path(options.out) / name}  {about['bytes'] / 1e6:.2f} MB")
