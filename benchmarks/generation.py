"""Time and memory of generation: our implementation beside the authors' code, on the same random weights.

    git clone https://github.com/FoundationVision/VAR
    python benchmarks/generation.py --reference VAR

Every side is a process of its own that loads the weights once. Rounds go over all sides and batch sizes in turn,
so that all see the same machine; medians of the rounds are compared. Peak memory is that of the round that warms up.
Ours works through a batch in as many parts as keep keys and values within a quarter of a gigabyte. The authors' code
runs as it is shipped (float32 on CPU) and under bf16 autocast.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
import torch
from rich.table import Table

from nextscale.bench.machine import peak_memory, reset_peak_memory
from nextscale.cli.tables import print_table
from nextscale.files import write_json
from nextscale.pipeline import VARPipeline
from nextscale.runtime import retain_freed_memory
from official_parity import VARIANTS, build_reference

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Side:
    """One implementation in one precision."""

    ours: bool
    precision: str

    @property
    def name(self) -> str:
        return f"ours, {self.precision}" if self.ours else f"authors', {self.precision}"


@dataclass(frozen=True)
class Task:
    """What every side generates."""

    reference: str
    depth: int
    vae: str
    var: str
    guidance: float
    top_k: int
    top_p: float


def main(
    *,
    reference: Annotated[Path, cyclopts.Parameter(help="Clone of the authors' repository.")],
    depth: int = 16,
    batch_sizes: str = "1,8",
    precisions: Annotated[str, cyclopts.Parameter(help="Ours; the authors' are fp32 and bf16 autocast.")] = "fp32,bf16",
    rounds: int = 5,
    guidance: float = 1.5,
    top_k: int = 900,
    top_p: float = 0.96,
    seed: int = 0,
    json: str = "",
) -> None:
    """Generate 256 x 256 images on every side and print medians and ratios."""
    sys.path.insert(0, str(reference))
    batches = [int(text) for text in batch_sizes.split(",")]
    sides = [Side(False, "fp32"), Side(False, "bf16"), *(Side(True, name) for name in precisions.split(","))]
    with tempfile.TemporaryDirectory() as folder:
        task = Task(str(reference), depth, f"{folder}/vae.pth", f"{folder}/var.pth", guidance, top_k, top_p)
        vae, var = build_reference(VARIANTS["plain"], depth, seed)
        torch.save(vae.state_dict(), task.vae)
        torch.save(var.state_dict(), task.var)
        del vae, var
        results = measure(sides, task, batches, rounds)
    for batch in batches:
        print_table(table(results, sides, batch, depth))
    if json:
        write_json(Path(json), {"depth": depth, "rounds": rounds, "sides": results})


def measure(sides: list[Side], task: Task, batches: list[int], rounds: int) -> dict[str, dict[int, dict[str, Any]]]:
    """Seconds per image of every round and peak bytes, by side and batch size; the first round only warms up."""
    context = multiprocessing.get_context("spawn")
    workers: dict[str, tuple[Any, Connection]] = {}
    for side in sides:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(side, task, there), daemon=True)
        process.start()
        there.close()
        workers[side.name] = (process, here)
        print(f"{side.name}: loaded in {here.recv():.1f} s", flush=True)
    results: dict[str, dict[int, dict[str, Any]]] = {
        name: {batch: {"seconds": [], "peak": 0} for batch in batches} for name in workers
    }
    for number in range(rounds + 1):
        for batch in batches:
            for name, (_, connection) in workers.items():
                connection.send((batch, number))
                seconds, peak = connection.recv()
                if number:
                    results[name][batch]["seconds"].append(seconds / batch)
                else:  # later rounds still hold what earlier ones of larger batches freed
                    results[name][batch]["peak"] = peak
        print(f"round {number} of {rounds}", flush=True)
    for process, connection in workers.values():
        connection.send(None)
        process.join()
    return results


@torch.inference_mode()
def work(side: Side, task: Task, connection: Connection) -> None:
    """A side's process: load, then generate what is asked for until None comes."""
    began = time.perf_counter()
    generate = load_ours(side, task) if side.ours else load_authors(side, task)
    connection.send(time.perf_counter() - began)
    while (order := connection.recv()) is not None:
        batch, seed = order
        reset_peak_memory(CPU)
        began = time.perf_counter()
        generate(batch, seed)
        connection.send((time.perf_counter() - began, peak_memory(CPU)))


def load_ours(side: Side, task: Task) -> Any:
    pipeline = VARPipeline.from_official(vae=task.vae, var=task.var, device="cpu", dtype=side.precision)
    retain_freed_memory()  # not before: what loading frees should go back
    settings = {"guidance": task.guidance, "top_k": task.top_k, "top_p": task.top_p}

    def generate(batch: int, seed: int) -> None:
        classes = [(7 * i + seed) % 1000 for i in range(batch)]
        pipeline.generate(classes, seeds=range(batch * seed, batch * seed + batch), **settings)

    return generate


def load_authors(side: Side, task: Task) -> Any:
    sys.path.insert(0, task.reference)
    from models import build_vae_var  # pyright: ignore[reportMissingImports]

    scales = VARIANTS["plain"].scales
    vae, var = build_vae_var(device="cpu", patch_nums=scales, depth=task.depth, shared_aln=False)
    vae.load_state_dict(torch.load(task.vae, weights_only=True))
    var.load_state_dict(torch.load(task.var, weights_only=True))
    vae.eval(), var.eval()
    cast = torch.autocast("cpu", torch.bfloat16) if side.precision == "bf16" else nullcontext()

    def generate(batch: int, seed: int) -> None:
        classes = torch.tensor([(7 * i + seed) % 1000 for i in range(batch)])
        with cast:
            var.autoregressive_infer_cfg(
                B=batch, label_B=classes, g_seed=seed, cfg=task.guidance, top_k=task.top_k, top_p=task.top_p
            )

    return generate


def table(results: dict[str, dict[int, dict[str, Any]]], sides: list[Side], batch: int, depth: int) -> Table:
    """Medians, spreads and ratios to both of the authors' sides."""
    columns = ("s per image", "slowest / fastest", "x authors' fp32", "x authors' bf16", "peak MB", "of the authors'")
    shown = Table("", *columns, title=f"depth {depth}, batch {batch}")
    middle = {side.name: median(results[side.name][batch]["seconds"]) for side in sides}
    for side in sides:
        seconds, peak = results[side.name][batch]["seconds"], results[side.name][batch]["peak"]
        counterpart = results[Side(False, "fp32" if side.precision == "fp32" else "bf16").name][batch]["peak"]
        ratios = [f"{middle[Side(False, precision).name] / middle[side.name]:.2f}" for precision in ("fp32", "bf16")]
        spread = f"{max(seconds) / min(seconds):.2f}"
        shown.add_row(
            side.name, f"{middle[side.name]:.2f}", spread, *ratios, f"{peak / 1e6:.0f}", f"{peak / counterpart:.2f}"
        )
    return shown


if __name__ == "__main__":
    cyclopts.run(main)
