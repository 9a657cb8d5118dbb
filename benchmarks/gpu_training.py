"""Speed of training and of reading images."""

from __future__ import annotations

import builtins
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn

from gpu_models import Setup, authors_models, free, in_turn, random_models
from gpu_pictures import picture
from gpu_runner import Note
from nextscale.bench.cost import training_flops
from nextscale.checkpoint import ModelConfig, fingerprint, save_model
from nextscale.data.source import open_source
from nextscale.data.tokens import TokenCacheConfig, claim, finish, shard_folder, write_shard
from nextscale.families.config import VARConfig
from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.runtime import Processes
from nextscale.training.config import OptimiserConfig, TokenizerTraining, TransformerTraining
from nextscale.training.images import image_batches
from nextscale.training.stage2 import TransformerStage

OPTIMISER = OptimiserConfig()
CACHED = 4096
"""Images in the cache of random tokens."""
BLOCK = 5
"""Steps that are timed together, so that the host may run ahead as in a real training."""


def training(setup: Setup, note: Note) -> None:
    """Steps of stage 2 on random tokens: ours as `train var` takes them, the authors' as their trainer does."""
    tokenizer, model = random_models(setup.sizes, setup.sizes.depth, setup.device)
    config: Any = model.config
    batch = setup.sizes.training_batch
    save_model(setup.work / "training-tokenizer", ModelConfig(), tokenizer=tokenizer)
    write_random_tokens(setup, fingerprint(tokenizer), config)
    theirs = None
    if setup.reference is not None:
        theirs = authors_step(setup, *authors_models(setup.sizes, tokenizer, model, setup.device))
    del tokenizer, model
    free()

    def recorded(rows: dict[str, Any]) -> None:
        rate = setup.found.get("card", {}).get("bf16_tflops")
        for name, row in rows.items():
            if "ms" in row:
                for figure in ("ms", "fastest", "slowest"):
                    row[figure] /= BLOCK
                row["images_per_s"] = 1000 * batch / row["ms"]
                row["tflops"] = training_flops(config) * row["images_per_s"] / 1e12
                row["share of the card's rate"] = row["tflops"] / rate if rate else None
            note(name, row)

    runs = 2 if setup.rehearse else 4
    with our_step(setup, config, compiled=False) as step:
        calls = {"ours": block(step)} | ({"authors'": block(theirs)} if theirs is not None else {})
        recorded(in_turn(setup, calls, runs))
    del calls, step, theirs
    free()
    if not setup.rehearse:
        with our_step(setup, config, compiled=True) as step:
            recorded(in_turn(setup, {"ours, compiled": block(step)}, runs))


def block(step: Callable[[], None]) -> Callable[[], None]:
    def steps() -> None:
        for _ in range(BLOCK):
            step()

    return steps


def write_random_tokens(setup: Setup, tokenizer: str, config: VARConfig) -> None:
    """A token cache of a tokenizer with this fingerprint."""
    datasets.disable_progress_bars()
    out, length = setup.work / "training-tokens", ScaleSchedule(config.scales).length
    shutil.rmtree(out, ignore_errors=True)
    random, count = np.random.default_rng(0), 64 if setup.rehearse else CACHED
    about = TokenCacheConfig(
        tokenizer=tokenizer, scales=config.scales, codebook_size=config.codebook_size,
        class_names=tuple(f"class {number}" for number in range(config.classes)),
    )  # fmt: skip
    claim(out, about, resume=False)
    tokens = random.integers(0, config.codebook_size, (count, length)).astype(np.uint16)
    rows = {"tokens": list(tokens), "label": random.integers(0, config.classes, count), "index": np.arange(count)}
    write_shard(shard_folder(out, 0), rows, about)
    finish(out, about)


@contextmanager
def our_step(setup: Setup, config: VARConfig, *, compiled: bool) -> Iterator[Callable[[], None]]:
    """The next step of a real run of stage 2, its batch included."""
    settings = TransformerTraining(
        data=str(setup.work / "training-tokens"), tokenizer=str(setup.work / "training-tokenizer"),
        out=str(setup.work / f"training-run-{compiled}"), model=config, batch_size=setup.sizes.training_batch,
        steps=1000, heldout_share=0, precision="bf16", compile=compiled, device=setup.device.type,
    )  # fmt: skip
    stage = TransformerStage(settings, resume=False)
    stage.prepare()
    number = 0
    with closing(stage.batches(0, None)) as batches:

        def step() -> None:
            nonlocal number
            torch.manual_seed(number)
            stage.step(number, next(batches))
            number += 1

        yield step


def authors_step(setup: Setup, vae: Any, var: Any) -> Callable[[], None]:
    """As their trainer does it in a single process, from tokens: float16 with loss scaling, fused AdamW."""
    with quiet():
        from utils.amp_sc import AmpOptimizer  # pyright: ignore[reportMissingImports]
        from utils.lr_control import filter_params  # pyright: ignore[reportMissingImports]

        skipped = {"pos_1LC", "pos_start", "lvl_embed", "ada_gss", "scale_mul"}
        var.requires_grad_(True)
        names, parameters, groups = filter_params(var, nowd_keys=skipped)
    betas = OPTIMISER.beta1, OPTIMISER.beta2
    optimiser = torch.optim.AdamW(groups, lr=1e-5, betas=betas, weight_decay=0, fused=True)
    amp = AmpOptimizer(1 if setup.cuda else 0, optimiser, names, parameters, OPTIMISER.clip)
    criterion = nn.CrossEntropyLoss(reduction="none")
    schedule, batch = ScaleSchedule(setup.sizes.scales), setup.sizes.training_batch
    var.train()

    def step() -> None:
        packed = torch.randint(setup.sizes.codebook_size, (batch, schedule.length), device=setup.device)
        labels = torch.randint(setup.sizes.classes, (batch,), device=setup.device)
        inputs = vae.quantize.idxBl_to_var_input([level.flatten(1) for level in TokenPyramid(packed, schedule)])
        with amp.amp_ctx:
            logits = var(labels, inputs)
            losses = criterion(logits.view(-1, logits.shape[-1]), packed.view(-1)).view(batch, -1)
            loss = losses.mul(torch.ones_like(losses[:1]) / losses.shape[1]).sum(dim=-1).mean()
        amp.backward_clip_step(stepping=True, loss=loss)

    return step


@contextmanager
def quiet() -> Iterator[None]:
    """Their functions print, with arguments that only their own `print` takes."""
    before = builtins.print
    builtins.print = lambda *args, **kwargs: None  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        builtins.print = before


def loader(setup: Setup, note: Note) -> None:
    """Images a second from a folder of JPEGs to batches of crops, as stage 1 reads them."""
    folder, count = setup.work / "jpegs", setup.sizes.pictures
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(write_jpegs, [folder] * cores, [range(part, count, cores) for part in range(cores)]))
    side, batch = (64, 8) if setup.rehearse else (256, 128)
    config = TokenizerTraining(data=str(folder), out="", batch_size=batch, enlarge=1.125, flip=True)
    source, images = open_source(folder), 0
    with closing(image_batches(source, config, (side, side), Processes(), start=0, position=None)) as batches:
        next(batches)
        began = time.perf_counter()
        while images < count or (time.perf_counter() - began < 5 and not setup.rehearse):
            images += len(next(batches).images)
        note("images_per_s", images / (time.perf_counter() - began))
    note("cores", cores)
    note("pixels", "500 x 375, cropped to 256 x 256")


def write_jpegs(folder: Path, numbers: range) -> None:
    for number in numbers:
        label, image = number % 10, picture(number % 10, number, side=500)
        path = folder / f"{label}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.crop((0, 0, 500, 375)).save(path, quality=90)
