"""How many images keep their tokens when the batch around them changes.

    python benchmarks/batch_invariance.py

The same images (class, seed) are generated in batches of 16, alone, with the classes in another order, and in
calls of four; every image that two ways share is compared token by token, in each precision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
import torch
from rich.table import Table

from nextscale import VARPipeline
from nextscale.cli.tables import print_table
from nextscale.files import write_json
from nextscale.progress import Progress
from nextscale.sampling.next_scale import SamplingConfig


def main(
    *,
    model: str = "demo",
    count: int = 512,
    seed: int = 0,
    batch_size: int = 16,
    precisions: Annotated[str, cyclopts.Parameter(help="Precisions with commas.")] = "fp32,bf16",
    json: str = "",
) -> None:
    """Compare four ways to generate the same images."""
    table = Table("precision", "alone", "another order", "calls of four", title=f"{model}: images with the same tokens")
    results: dict[str, dict[str, float]] = {}
    for precision in precisions.split(","):
        pipeline = VARPipeline.from_pretrained(model, dtype=precision)
        classes = [number % pipeline.transformer.config.classes for number in range(count)]
        seeds = [seed + number for number in range(count)]
        settings = pipeline.sampling()
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
        expected = tokens(pipeline, classes, seeds, batch_size, settings)
        shuffled = tokens(pipeline, [classes[i] for i in order], [seeds[i] for i in order], batch_size, settings)
        restored = torch.empty_like(shuffled)
        restored[order] = shuffled
        ways = {
            "alone": tokens(pipeline, classes, seeds, 1, settings),
            "another order": restored,
            "calls of four": tokens(pipeline, classes, seeds, 4, settings),
        }
        same = {name: float((other == expected).all(dim=1).float().mean()) for name, other in ways.items()}
        results[precision] = same
        table.add_row(precision, *[f"{share:.2%}" for share in same.values()])
    print_table(table)
    if json:
        write_json(Path(json), {"model": model, "count": count, "batch_size": batch_size, "same_tokens": results})


def tokens(
    pipeline: VARPipeline, classes: list[int], seeds: list[int], batch_size: int, settings: SamplingConfig
) -> torch.Tensor:
    """Packed tokens of all images, (N, L)."""
    progress = Progress(len(seeds), title=f"batches of {batch_size}", line_seconds=30)
    parts = []
    for start in range(0, len(seeds), batch_size):
        part = slice(start, start + batch_size)
        steps = list(pipeline.generate_steps(classes[part], seeds=seeds[part], config=settings))
        parts.append(torch.cat([step.tokens.flatten(1) for step in steps], dim=1).cpu())
        progress.advance(min(start + batch_size, len(seeds)))
    progress.close()
    return torch.cat(parts)


if __name__ == "__main__":
    cyclopts.run(main)
