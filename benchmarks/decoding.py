"""Token by token at batch 1: how fast weights are read, beside what the machine can and what its kernel does.

    python benchmarks/decoding.py --entrants raster-d16,raster-d30,rq-d16

Random weights, no draw and no decoder: medians over the positions of one image, with one sequence (no guidance) and
with two. `linear layers` are the same layers one after the other with nothing between them; they and the memory, a sum
over a gigabyte, are measured in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cyclopts
import torch
from rich.table import Table
from torch import nn

from nextscale.bench.cost import passes
from nextscale.bench.full_size import entrants as full_size
from nextscale.bench.full_size import random_pipeline
from nextscale.bench.machine import memory_rate
from nextscale.cli.tables import print_table
from nextscale.families.raster import Raster
from nextscale.families.rq import RQTransformer
from nextscale.files import write_json
from nextscale.nn.packed import PackedLinear
from nextscale.runtime import retain_freed_memory

CPU = torch.device("cpu")


@torch.no_grad()
def main(*, entrants: str = "raster-d16,raster-d30,rq-d16", size: int = 256, places: int = 128, json: str = "") -> None:
    """Time the first `places` positions of each model and print a table."""
    retain_freed_memory()
    known = {one.name: one for one in full_size(size) if one.kind in ("raster", "rq")}
    if not set(entrants.split(",")) <= set(known):
        raise SystemExit(f"entrants must be some of {', '.join(known)}, got {entrants}")
    columns = ("model", "sequences", "ms a position", "linear layers, ms", "GB", "GB/s", "memory, GB/s", "share")
    table = Table(*columns, title=f"bf16, {size} x {size} pixels, {places} positions")
    rows: list[dict[str, Any]] = []
    for name in entrants.split(","):
        model = random_pipeline(known[name], CPU, torch.bfloat16).transformer
        config = model.config
        whole = getattr(config, "positions", config.schedule.length)
        for sequences in (1, 2):
            step, layers = position(model, sequences), linear_layers(model, sequences)
            taken, alone, rates = [], [], []
            for place in range(min(places, whole)):
                taken.append(timed(partial(step, place)))
                if place % 16 == 0:
                    alone.append(timed(layers))
                    rates.append(memory_rate(CPU))
            seconds, rate = median(taken), median(rates)
            read = sum(one.read for one in passes(config, item=2, sequences=sequences)) / whole
            rows.append({
                "model": name, "sequences": sequences, "seconds": seconds, "linear_seconds": median(alone),
                "bytes": read, "bytes_per_second": read / seconds, "memory_bytes_per_second": rate,
                "share": read / seconds / rate,
            })  # fmt: skip
            table.add_row(
                name, str(sequences), f"{seconds * 1e3:.1f}", f"{median(alone) * 1e3:.1f}", f"{read / 1e9:.3f}",
                f"{read / seconds / 1e9:.1f}", f"{rate / 1e9:.1f}", f"{read / seconds / rate:.0%}",
            )  # fmt: skip
        del model
    if json:
        write_json(Path(json), {"size": size, "places": places, "rows": rows})
    print_table(table)


def position(model: nn.Module, sequences: int) -> Callable[[int], Any]:
    """What computes a position of one image: all its codes, with their logits."""
    classes = torch.arange(sequences)
    latents = torch.randn(sequences, 1, model.config.latent_channels)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(model, Raster):
        condition, cache = model.condition(classes), model.new_cache(sequences)
        return lambda place: model.classify(model.step(place, latents if place else None, condition, cache))
    assert isinstance(model, RQTransformer)
    condition, cache = model.spatial.condition(classes), model.spatial.new_cache(sequences)
    by_depth = model.by_depth.condition(classes)

    def all_codes(place: int) -> None:
        hidden = model.spatial.advance(place, latents if place else None, condition, cache)
        state, small = replace(by_depth, start_BC=hidden[:, 0]), model.by_depth.new_cache(sequences)
        for code in range(model.config.codes):
            model.by_depth.classify(model.by_depth.step(code, latents if code else None, state, small))

    return all_codes


def linear_layers(model: nn.Module, sequences: int) -> Callable[[], Any]:
    """What computes all packed layers of a position, as often as it does."""
    turns = {"by_depth": model.config.codes} if isinstance(model, RQTransformer) else {}
    layers = [
        (module, torch.randn(sequences, 1, module.packed.shape[1]).to(module.packed.dtype))
        for name, module in model.named_modules()
        if isinstance(module, PackedLinear) and "modulation" not in name
        for _ in range(turns.get(name.split(".")[0], 1))
    ]
    return lambda: [module(x) for module, x in layers]


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    cyclopts.run(main)
