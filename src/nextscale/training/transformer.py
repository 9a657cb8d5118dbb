"""Stage 2: train a transformer on token pyramids, from a token cache or from images tokenised on the way.

Recipe: paper, section 4 and appendix; the loop is the same for every model kind (see `objective`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nextscale.catalogue import find_model
from nextscale.checkpoint import ModelConfig, fingerprint, save_model
from nextscale.config import from_dict
from nextscale.data.source import ImageSource
from nextscale.data.stream import ImageStream, Position
from nextscale.data.tokens import (
    TokenBatch,
    TokenCache,
    cached_batches,
    is_token_cache,
    open_tokens,
)
from nextscale.families.table import family_of
from nextscale.pictures import grid, save_image
from nextscale.pipeline import VARPipeline
from nextscale.progress import Announce, silent
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import PRECISIONS, autocast, resolve_device
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.config import TransformerTraining
from nextscale.training.distributed import any_process, gradients_at_the_end, launched, main_decides, wrap
from nextscale.training.heldout import class_places, describe, describe_heldout, measure, spread_tokens
from nextscale.training.images import described, image_batches, load_position, open_images, save_position
from nextscale.training.loop import (
    Journal,
    Updater,
    counted_steps,
    gradient_scaler,
    require_finite,
    settled_precision,
    shown_at,
)
from nextscale.training.objective import drop_classes, mean_figures, measured_latents, objective_of
from nextscale.training.optimisation import (
    averaged,
    build_optimiser,
    set_schedule,
)
from nextscale.training.record import continued, identity_of
from nextscale.training.run import RunFolder, stop_requests
from nextscale.training.sharding import load_sharded, save_sharded, shard, whole_state
from nextscale.training.split import set_aside
from nextscale.training.tokens import encoded_batches
from nextscale.training.warm_start import started_config, warm_start

logger = logging.getLogger("nextscale.training")

PART_TOKENS = 1200
"""Tokens that make matrix products efficient on CPU."""
SAMPLES = 16
"""Images in the pictures that a run draws."""


def train_transformer(config: TransformerTraining, *, resume: bool = False) -> Path:
    """Train and export RUN/model; returns that folder. Raises ValueError for unusable settings or data."""
    processes = launched()
    device = resolve_device(config.device)
    run = RunFolder(Path(config.out), keep=config.keep)
    before = run.look(resume=resume)
    config, dtype = settled_precision(continued(config, before), device, half=True)
    tokenizer = find_model(config.tokenizer).tokenizer().to(device).requires_grad_(False)
    identity = fingerprint(tokenizer)
    if config.tokenizer_fingerprint not in ("", identity):
        raise ValueError(f"tokenizer {config.tokenizer}: its weights are not those the settings were made with")
    source = open_tokens_or_images(config, tokenizer)
    samples, heldout = samples_apart(source, config, tokenizer)
    names = source.class_names
    places = None if heldout is None else class_places(heldout.class_names, names, config.heldout)
    sharded = config.parallel == "fsdp" and processes.world > 1
    stored = start = None
    if config.init_from and before is not None and run.checkpoints(sharded=sharded):
        fitted = from_dict(type(config.model), before.settings["model"])  # the other model may be gone by now
    elif config.init_from:
        stored = find_model(config.init_from)
        start = stored.transformer()
        fitted = started_config(start.config, config.model, tokenizer.config, len(names), config.init_from)
    else:
        shared = {name: getattr(tokenizer.config, name) for name in ("scales", "codebook_size", "latent_channels")}
        fitted = replace(config.model, classes=len(names), **shared)
    fitted = measured_latents(fitted, tokenizer, lambda: spread_tokens(samples, tokenizer, dtype))
    steps = counted_steps(config, samples)
    config = replace(config, model=fitted, tokenizer_fingerprint=identity, steps=steps)

    torch.manual_seed(config.seed)
    objective = objective_of(fitted, tokenizer, label_smoothing=config.label_smoothing)
    model = objective.build(gamma=config.gamma).to(device)
    model.checkpointing = config.checkpointing
    if start is not None and stored is not None:
        known = warm_start(model, names, start, stored.config().class_names)
        logger.info("starts from %s, which knows %d of %d classes", config.init_from, known, len(names))
    average = averaged(model, config.optimiser.ema)
    if sharded:
        for module in (model, average.module):
            shard(module, objective.units(module), device)
    optimiser = build_optimiser(model, config.optimiser, objective.no_decay)
    scaler = gradient_scaler(device, dtype)
    updater = Updater(model, optimiser, clip=config.optimiser.clip, average=average, scaler=scaler)

    def begin() -> None:
        inputs = {"data": identity_of(source), "heldout": identity_of(heldout if config.heldout else None)}
        run.start(config, family_of(fitted).kind, inputs, before)

    main_decides(begin, processes)  # everything that can be refused has been
    if processes.is_main:
        logger.info(described(source, heldout, config))
    first = 0
    if before is not None and sharded:
        first = run.load_sharded(lambda folder: load_sharded(updater, folder))
    elif before is not None and (state := run.load_checkpoint()) is not None:
        first = state["step"]
        updater.restore(state)
    if first:
        logger.info("resumed at step %d", first)
    elif config.init_from and start is None:
        raise ValueError(f"{run.path}: none of its checkpoints can be read; remove the folder to begin again")
    if config.compile:
        model.compile()
    training = model if sharded else wrap(model, processes)
    journal = Journal(run.path, config, start=first, title="transformer", main=processes.is_main)
    done, current = first, True

    def save(position: Position | None) -> None:
        save_position(run, done, processes, position)
        if sharded:
            run.save_sharded(done, lambda folder: save_sharded(updater, folder), processes)
        elif processes.is_main:
            run.save_checkpoint(done, {"step": done} | updater.state())

    def show() -> bool:
        """Measure and export; whether all processes are through with it, not stopped on the way."""
        whole = whole_state(average) if sharded else None  # all processes take part
        finished = True
        if processes.is_main:
            module = average.module if whole is None else objective.rebuilt(whole)
            if heldout is not None:
                measured = measure(
                    objective, module, heldout, config, tokenizer, unconditional=fitted.unconditional, places=places,
                    dtype=dtype, stop=stop.is_set, announce=journal.progress.aside,
                )  # fmt: skip
                finished = measured is not None
                if measured is not None:
                    journal.write(done, measured)
                    logger.info("held-out images at step %d: %s", done, describe_heldout(measured))
            if finished:
                export(module, tokenizer, names, config, run, done, stop=stop.is_set, announce=journal.progress.aside)
        return not any_process(not finished)

    position = load_position(run, first, processes) if config.stream else None
    batches = training_batches(samples, config, tokenizer, dtype, start=first, position=position)
    with stop_requests() as stop, closing(batches):
        if shown_at(config, first) and any_process(processes.is_main and run.is_behind(first)):
            current = show()
        for step in range(first, config.steps if current else first):
            batch = next(batches)
            torch.manual_seed(hash((config.seed, step, processes.rank)))
            chosen = drop_classes(
                batch.labels, batch.chance, rate=config.class_dropout, unconditional=fitted.unconditional
            ).to(device)
            set_schedule(optimiser, step, config.steps, config.optimiser, config.batch_size)
            count = config.accumulate or (1 if sharded else suggested_parts(batch.tokens, device))
            parts = split_batch(batch.tokens.to(device), chosen, count)
            seen: list[dict[str, Tensor]] = []
            with autocast(device, dtype):  # once: weights are cast for the first part and kept
                for number, (tokens, classes) in enumerate(parts, 1):
                    with gradients_at_the_end(training, number == len(parts)):
                        loss, figures = objective.loss(training, tokens, classes)
                        saved = {"tokens": tokens.packed, "classes": classes}
                        require_finite(loss, step, run.path, saved, processes.rank)
                        updater.backward(loss * (len(classes) / len(chosen)))
                    seen.append(figures)
            figures = seen[0] if len(seen) == 1 else mean_figures(seen, [len(classes) for _, classes in parts])
            norm = updater.step()

            done = step + 1
            journal.step(done, figures, norm, describe)
            stopping = any_process(stop.is_set())
            saving = stopping or done == config.steps or done % config.checkpoint_every == 0
            if saving:
                save(batch.position)
            if shown_at(config, done):
                current = not stopping and show()
                if not current and not saving:
                    save(batch.position)
            if stopping or not current:
                break
    journal.close()
    if done < config.steps or not current:
        raise KeyboardInterrupt
    return run.path / "model"


def open_tokens_or_images(config: TransformerTraining, tokenizer: VQVAE) -> TokenCache | ImageSource | ImageStream:
    """A token cache that this tokenizer made, or images. Raises ValueError."""
    if is_token_cache(config.data):
        return open_tokens(config.data, tokenizer=fingerprint(tokenizer))
    return open_images(config)


def samples_apart(
    source: TokenCache | ImageSource | ImageStream, config: TransformerTraining, tokenizer: VQVAE
) -> tuple[TokenCache | ImageSource | ImageStream, TokenCache | ImageSource | None]:
    """What is trained on, and what is measured on: `heldout`, a share that is set aside, or nothing of a stream."""
    samples, aside = (source, None) if isinstance(source, ImageStream) else set_aside(source, config.heldout_share)
    if config.heldout:
        heldout = open_tokens_or_images(replace(config, data=config.heldout, stream=False), tokenizer)
        assert not isinstance(heldout, ImageStream)
        return samples, heldout
    return samples, aside


def training_batches(
    source: TokenCache | ImageSource | ImageStream,
    config: TransformerTraining,
    tokenizer: VQVAE,
    dtype: torch.dtype,
    *,
    start: int,
    position: Position | None,
) -> Generator[TokenBatch, None, None]:
    """Endless batches of this process from step `start`."""
    processes = launched()
    if isinstance(source, TokenCache):
        yield from cached_batches(
            source, batch_size=config.batch_size, seed=config.seed, rank=processes.rank, world=processes.world,
            start=start,
        )  # fmt: skip
        return
    size = tokenizer.config.image_size
    images = image_batches(source, config, size, processes, start=start, position=position)
    with closing(images):
        yield from encoded_batches(tokenizer, images, seed=config.seed, dtype=dtype)


def export(
    model: Any,
    tokenizer: VQVAE,
    names: tuple[str, ...],
    config: TransformerTraining,
    run: RunFolder,
    step: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    announce: Announce = silent,
) -> None:
    """Write RUN/model, then a grid of samples, up to 16 classes in 4 or more images; no grid when `stop` says so."""
    about = ModelConfig(
        kind=family_of(config.model).kind,
        class_names=names,
        guidance=config.guidance,
        top_k=config.top_k,
        top_p=config.top_p,
        trained_steps=step,
    )
    dtype = PRECISIONS[config.export]
    save_model(run.path / "model", about, tokenizer=tokenizer, transformer=model, dtype=dtype)
    pipeline = VARPipeline(tokenizer, model.eval(), about)
    classes = list(range(min(16, len(names)))) or [None]
    images: list[Image.Image] = []
    advance = announce("drawing samples", SAMPLES)
    while len(images) < SAMPLES and not stop():
        seeds = range(len(images), min(SAMPLES, len(images) + pipeline.default_batch_size))
        images += pipeline.generate([classes[seed % len(classes)] for seed in seeds], seeds=seeds).images
        advance(len(images))
    if len(images) == SAMPLES:
        save_image(grid(images), run.path / "samples" / f"{step:08d}.png")
    model.train()


def suggested_parts(tokens: TokenPyramid, device: torch.device) -> int:
    """Equal parts of a batch that are as fast as the whole: on CPU of some 1,200 tokens, which keep products busy."""
    if device.type != "cpu":
        return 1
    share = tokens.batch_size
    least = -(-PART_TOKENS // tokens.schedule.length)  # images of a part
    return next(parts for parts in range(max(1, share // least), 0, -1) if share % parts == 0)


def split_batch(tokens: TokenPyramid, classes: Tensor, parts: int) -> list[tuple[TokenPyramid, Tensor]]:
    """A batch in nearly equal parts."""
    pairs = zip(tokens.packed.chunk(parts), classes.chunk(parts), strict=True)
    return [(TokenPyramid(packed, tokens.schedule), chosen) for packed, chosen in pairs]
