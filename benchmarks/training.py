"""Training: our steps beside the authors', from the same random weights and the same data.

    git clone https://github.com/FoundationVision/VAR
    python benchmarks/training.py --reference VAR

Five things are compared, each side in a process of its own, rounds in turn, medians: the time of an optimiser step
from tokens (teacher-forcing input, forward, backward, clipping, AdamW) under bf16 autocast with dropout as published,
ours plain and compiled; the time of tokenising a batch of images, encoder included (theirs in float32, as their trainer
does it, and with the encoder in bf16); the peak memory of both; and the losses of `--loss-steps` steps in float32 with
dropout and drop-path off. The authors' code runs as shipped, with autocast for the CPU.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Annotated, Any

import cyclopts
import torch
from rich.table import Table
from torch import Tensor, nn

from nextscale.bench.machine import peak_memory, reset_peak_memory
from nextscale.checkpoint import module_from_state
from nextscale.cli.tables import print_table
from nextscale.families import family_of
from nextscale.families.var import VAR
from nextscale.files import write_json
from nextscale.nn.transformer import no_decay
from nextscale.official import tokenizer_from_official, transformer_from_official
from nextscale.official_files import read_part
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.runtime import autocast, retain_freed_memory
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.config import OptimiserConfig
from nextscale.training.optimisation import Updater, set_schedule
from nextscale.training.parts import drop_classes, split_batch, suggested_parts
from official_parity import VARIANTS, build_reference, pictures

CPU = torch.device("cpu")
OPTIMISER = OptimiserConfig()
CLASS_DROPOUT = 0.1
STEPS = 1000
"""Length of the schedule whose first steps are taken."""


@dataclass(frozen=True)
class Task:
    """What both sides do."""

    reference: str
    depth: int
    vae: str
    var: str
    batch: int
    seed: int
    precision: torch.dtype
    dropout: bool

    @property
    def schedule(self) -> ScaleSchedule:
        return ScaleSchedule(VARIANTS["plain"].scales)

    def tokens(self, step: int) -> tuple[TokenPyramid, Tensor, Tensor]:
        """Random tokens, classes and chances of dropout of a step."""
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        packed = torch.randint(4096, (self.batch, self.schedule.length), generator=generator)
        classes = torch.randint(1000, (self.batch,), generator=generator)
        return TokenPyramid(packed, self.schedule), classes, torch.rand(self.batch, generator=generator)

    def images(self, step: int) -> Tensor:
        return pictures(self.batch, 16 * self.schedule.final[0], torch.Generator().manual_seed(self.seed + step))


Work = Callable[[int], Any]


def main(
    *,
    reference: Annotated[Path, cyclopts.Parameter(help="Clone of the authors' repository.")],
    depth: int = 12,
    batch_size: int = 8,
    rounds: int = 5,
    loss_steps: Annotated[int, cyclopts.Parameter(help="Steps whose losses are compared; 0 leaves them out.")] = 20,
    loss_batch_size: int = 2,
    seed: int = 0,
    json: str = "",
) -> None:
    """Compare and print medians, ratios and the largest difference of the losses."""
    sys.path.insert(0, str(reference))
    with tempfile.TemporaryDirectory() as folder:
        vae, var = build_reference(VARIANTS["plain"], depth, seed)
        with torch.no_grad():
            var.head.weight.mul_(0.1)  # losses start near log V, as in a real training
        paths = f"{folder}/vae.pth", f"{folder}/var.pth"
        for model, path in zip((vae, var), paths, strict=True):
            torch.save(model.state_dict(), path)
        del vae, var
        timed = Task(str(reference), depth, *paths, batch_size, seed, torch.bfloat16, dropout=True)
        exact = Task(str(reference), depth, *paths, loss_batch_size, seed, torch.float32, dropout=False)
        results = {
            name: interleaved(timed, (authors, ours), rounds)
            for name, authors, ours in (
                ("optimiser step", authors_step, our_step),
                ("optimiser step, ours with --compile", authors_step, partial(our_step, compiled=True)),
                ("tokenising as both train", authors_tokenising, our_tokenising),
                ("tokenising, both bf16", partial(authors_tokenising, precision=torch.bfloat16), our_tokenising),
            )
        }
        print_table(speed_table(results, timed))
        losses = None
        if loss_steps:
            sides = (authors_step, our_step)
            losses = [[report["value"] for report in one] for one in run_sides(exact, sides, loss_steps)]
            print_table(loss_table(losses))
    if json:
        write_json(Path(json), {"depth": depth, "batch_size": batch_size, "speed": results, "losses": losses})


def interleaved(task: Task, sides: tuple[Callable[[Task], Work], ...], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of every round but the first, and the peak memory, by side."""
    reports = run_sides(task, sides, rounds + 1)
    return {
        name: {
            "seconds": [report["seconds"] for report in side[1:]],
            "peak": max(report["peak"] for report in side),
        }
        for name, side in zip(("authors", "ours"), reports, strict=True)
    }


def run_sides(task: Task, sides: tuple[Callable[[Task], Work], ...], rounds: int) -> list[list[dict[str, Any]]]:
    """What every side reports of every round; the sides take turns."""
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[Any, Connection]] = []
    for side in sides:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(side, task, there), daemon=True)
        process.start()
        there.close()
        here.recv()
        workers.append((process, here))
    reports: list[list[dict[str, Any]]] = [[] for _ in workers]
    for number in range(rounds):
        for (_, connection), done in zip(workers, reports, strict=True):
            connection.send(number)
            done.append(connection.recv())
        print(f"{number + 1}/{rounds}: " + ", ".join(f"{done[-1]['seconds']:.2f} s" for done in reports), flush=True)
    for process, connection in workers:
        connection.send(None)
        process.join()
    return reports


def work(side: Callable[[Task], Work], task: Task, connection: Connection) -> None:
    """A side's process: build, then take the steps asked for until None comes."""
    sys.path.insert(0, task.reference)
    do = side(task)
    connection.send("ready")
    while (step := connection.recv()) is not None:
        reset_peak_memory(CPU)
        began = time.perf_counter()
        value = do(step)
        seconds = time.perf_counter() - began
        connection.send({"seconds": seconds, "peak": peak_memory(CPU), "value": value})


def load_authors(task: Task) -> tuple[Any, Any]:
    from models import build_vae_var  # pyright: ignore[reportMissingImports]

    scales = VARIANTS["plain"].scales
    vae, var = build_vae_var(device="cpu", patch_nums=scales, depth=task.depth, shared_aln=False)
    vae.load_state_dict(torch.load(task.vae, weights_only=True))
    var.load_state_dict(torch.load(task.var, weights_only=True))
    return vae, var


def authors_step(task: Task) -> Work:
    """As their trainer does it, single process."""
    from utils.lr_control import filter_params  # pyright: ignore[reportMissingImports]

    vae, var = load_authors(task)
    quantizer = vae.quantize
    del vae
    if not task.dropout:
        var.cond_drop_rate = 0.0
        for module in var.modules():
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0
    skipped = {"pos_1LC", "pos_start", "lvl_embed", "ada_gss", "scale_mul"}
    with quiet():
        _, parameters, groups = filter_params(var, nowd_keys=skipped)
    optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(OPTIMISER.beta1, OPTIMISER.beta2), weight_decay=0, fused=True)
    criterion = nn.CrossEntropyLoss(reduction="none")
    var.train()

    def step(number: int) -> float:
        tokens, classes, _ = task.tokens(number)
        for group in optimiser.param_groups:
            group["weight_decay"] = OPTIMISER.weight_decay * group["wd_sc"]
        schedule(optimiser, number, task)
        latents = quantizer.idxBl_to_var_input([level.flatten(1) for level in tokens])
        with autocast(CPU, task.precision):
            logits = var(classes, latents)
            losses = criterion(logits.view(-1, 4096), tokens.packed.view(-1)).view(task.batch, -1)
            loss = losses.mul(torch.ones(1, losses.shape[1]) / losses.shape[1]).sum(dim=-1).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, OPTIMISER.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item()

    return step


def our_step(task: Task, compiled: bool = False) -> Work:
    """As `train var` does it; the first step compiles."""
    retain_freed_memory()
    config, state = transformer_from_official(read_part(Path(task.var), "transformer"))
    model = module_from_state(VAR, config, state).requires_grad_(True)
    tokenizer = load_tokenizer(task)
    quantizer: Any = SimpleNamespace(quantizer=tokenizer.quantizer)
    del tokenizer
    if not task.dropout:
        for block in model.blocks:
            block.drop_path.drops = False
    updater = Updater(model, OPTIMISER, no_decay)
    model.train()
    if compiled:
        model.compile()

    def step(number: int) -> float:
        tokens, classes, chance = task.tokens(number)
        rate = CLASS_DROPOUT if task.dropout else 0.0
        classes = drop_classes(classes, chance, rate=rate, unconditional=config.unconditional)
        schedule(updater.optimiser, number, task)
        parts = split_batch(tokens, classes, suggested_parts(tokens, CPU, compiled=compiled))
        total = 0.0
        with autocast(CPU, task.precision):
            for part, chosen in parts:
                loss, _ = family_of(config).loss(model, part, chosen, tokenizer=quantizer, config=config)
                updater.backward(loss / len(parts))
                total += loss.item() / len(parts)
        updater.step()
        return total

    return step


def schedule(optimiser: torch.optim.Optimizer, step: int, task: Task) -> None:
    set_schedule(optimiser, step, STEPS, OPTIMISER, 256)


def load_tokenizer(task: Task) -> VQVAE:
    config, state = tokenizer_from_official(read_part(Path(task.vae), "tokenizer"), task.schedule)
    return module_from_state(VQVAE, config, state)


def authors_tokenising(task: Task, precision: torch.dtype = torch.float32) -> Work:
    """As their trainer does it, outside of autocast; or with the encoder in `precision`."""
    vae, var = load_authors(task)
    del var
    vae.eval()

    @torch.no_grad()
    def encode(number: int) -> list[int]:
        with autocast(CPU, precision):
            features = vae.quant_conv(vae.encoder(task.images(number)))
        return [int(level.sum()) for level in vae.quantize.f_to_idxBl_or_fhat(features.float(), to_fhat=False)]

    return encode


def our_tokenising(task: Task) -> Work:
    retain_freed_memory()
    tokenizer = load_tokenizer(task).requires_grad_(False)

    def encode(number: int) -> list[int]:
        with autocast(CPU, task.precision):
            return [int(level.sum()) for level in tokenizer.encode(task.images(number))]

    return encode


def quiet() -> Any:
    """Their functions print, with arguments that only their own `print` takes."""
    import builtins
    from contextlib import contextmanager

    @contextmanager
    def silenced() -> Any:
        before = builtins.print
        builtins.print = partial(lambda *args, **kwargs: None)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            builtins.print = before

    return silenced()


def speed_table(results: dict[str, dict[str, dict[str, Any]]], task: Task) -> Table:
    columns = ("authors' s", "ours s", "slowest / fastest", "times as fast", "authors' peak MB", "ours", "of theirs")
    table = Table("", *columns, title=f"depth {task.depth}, {task.schedule.length} tokens, batch {task.batch}, bf16")
    for name, sides in results.items():
        times = {side: median(figures["seconds"]) for side, figures in sides.items()}
        spreads = [max(figures["seconds"]) / min(figures["seconds"]) for figures in sides.values()]
        peaks = {side: figures["peak"] / 1e6 for side, figures in sides.items()}
        table.add_row(
            name, f"{times['authors']:.2f}", f"{times['ours']:.2f}", ", ".join(f"{spread:.2f}" for spread in spreads),
            f"{times['authors'] / times['ours']:.2f}", f"{peaks['authors']:.0f}", f"{peaks['ours']:.0f}",
            f"{peaks['ours'] / peaks['authors']:.2f}",
        )  # fmt: skip
    return table


def loss_table(losses: list[list[float]]) -> Table:
    theirs, ours = losses
    table = Table("step", "authors'", "ours", "relative difference", title="losses in float32, dropout off")
    differences = [abs(a - b) / a for a, b in zip(theirs, ours, strict=True)]
    for step in sorted({0, len(theirs) // 2, len(theirs) - 1}):
        table.add_row(str(step + 1), f"{theirs[step]:.5f}", f"{ours[step]:.5f}", f"{differences[step]:.1e}")
    table.add_row("largest", "", "", f"{max(differences):.1e}")
    return table


if __name__ == "__main__":
    cyclopts.run(main)
