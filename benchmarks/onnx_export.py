"""Exported models beside torch: sizes, errors, and the time of an image, batch 1.

    python benchmarks/onnx_export.py --models demo,demo-raster --json out/onnx.json

Each model is exported in every dtype. Generation is timed with guidance and the model's settings, from the class to
pixels: ours in float32, and examples/onnx_sample.py on onnxruntime, both with the same threads; one image of each in
turn, medians. Errors are those of the logits of known tokens against float32, at the tokens that torch draws: share of
positions with the same likeliest code, and mean KL divergence.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import cyclopts
import numpy as np
import onnxruntime
import torch
from rich.table import Table

from nextscale import VARPipeline
from nextscale.catalogue import find_model
from nextscale.cli.tables import print_table
from nextscale.export import export_onnx
from nextscale.export.config import DTYPES, OnnxConfig
from nextscale.files import write_json
from nextscale.sampling.likelihood import teacher_inputs

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from onnx_sample import OnnxModel

COLUMNS = (
    "model", "files", "transformer, MB", "all, MB", "ms an image", "spread", "same likeliest code", "KL, nats",
)  # fmt: skip


def main(
    *,
    models: str = "demo,demo-raster",
    rounds: int = 15,
    threads: Annotated[int, cyclopts.Parameter(help="0 is all that the process may use.")] = 0,
    opset: int = 20,
    json: str = "",
) -> None:
    """Export, measure, and print a table."""
    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in models.split(","):
        with TemporaryDirectory() as folder:
            rows += measured(name, Path(folder), rounds, threads, opset)
    table = Table(*COLUMNS, title=f"batch 1, {threads} threads, medians of {rounds}")
    for row in rows:
        table.add_row(
            row["model"], row["files"], f"{row['transformer_bytes'] / 1e6:.1f}", f"{row['bytes'] / 1e6:.1f}",
            f"{1e3 * row['seconds']:.1f}", f"{1e3 * row['fastest']:.1f} to {1e3 * row['slowest']:.1f}",
            f"{row['agreement']:.1%}", f"{row['kl']:.1e}",
        )  # fmt: skip
    print_table(table)
    if json:
        write_json(Path(json), {"threads": threads, "rounds": rounds, "opset": opset, "rows": rows})


def measured(name: str, folder: Path, rounds: int, threads: int, opset: int) -> list[dict[str, Any]]:
    """One row for torch and one for each dtype."""
    stored = find_model(name)
    exact = VARPipeline(stored.tokenizer(), stored.transformer(), stored.config())
    ours = VARPipeline.from_pretrained(name, device="cpu", dtype="fp32")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    runs: dict[str, Callable[[], object]] = {"torch, float32": lambda: ours.generate([0], seeds=[0])}
    rows = {"torch, float32": torch_row(ours)}
    for dtype in DTYPES:
        files = export_onnx(exact, folder / dtype, config=OnnxConfig(dtype=dtype, opset=opset), source=name)["files"]
        model = OnnxModel(folder / dtype, options)
        sizes = {file: about["bytes"] for file, about in files.items()}
        rows[dtype] = {"transformer_bytes": sizes["transformer.onnx"], "bytes": sum(sizes.values())}
        rows[dtype] |= errors(ours, model)
        runs[dtype] = lambda model=model: model.sample(0, 0)
    taken: dict[str, list[float]] = {each: [] for each in runs}
    for number in range(rounds + 1):  # the first warms up
        for each, run in runs.items():
            began = time.perf_counter()
            run()
            taken[each] += [time.perf_counter() - began] if number else []
    return [
        {"model": name, "files": each, **rows[each], "seconds": median(all_of), "fastest": min(all_of),
         "slowest": max(all_of)} for each, all_of in taken.items()
    ]  # fmt: skip


def torch_row(pipeline: VARPipeline) -> dict[str, float]:
    """Sizes in float32 of what an export holds."""
    sizes = [
        4 * sum(tensor.numel() for tensor in part.state_dict().values())
        for part in (pipeline.transformer, pipeline.tokenizer)
    ]
    return {"transformer_bytes": sizes[0], "bytes": sum(sizes), "agreement": 1.0, "kl": 0.0}


@torch.no_grad()
def errors(pipeline: VARPipeline, model: OnnxModel) -> dict[str, float]:
    """Of logits of one image per class, the tokens known, against float32."""
    classes = list(range(pipeline.transformer.config.classes))[:16]
    tokens = pipeline.generate(classes, seeds=range(len(classes))).tokens
    expected = pipeline.logits(tokens, classes).log_softmax(dim=-1)
    known = teacher_inputs(pipeline.transformer, pipeline.tokenizer.quantizer, tokens).numpy()
    first = model.about["parts"][0]
    latents = np.concatenate([np.zeros_like(known[:, :1]).repeat(first, axis=1), known], axis=1)
    cache, found, end = np.zeros((len(classes), *model.about["cache"]), np.float32), [], 0
    for length in model.about["parts"]:
        inputs = {"latents": latents[:, end : end + length], "cache": cache, "classes": np.array(classes, np.int32)}
        logits, cache = model.run("transformer", **inputs)
        found.append(torch.from_numpy(logits))
        end += length
    other = torch.cat(found, dim=1).log_softmax(dim=-1)
    return {
        "agreement": float((other.argmax(dim=-1) == expected.argmax(dim=-1)).float().mean()),
        "kl": float((expected.exp() * (expected - other)).sum(dim=-1).mean()),
    }


if __name__ == "__main__":
    cyclopts.run(main)
