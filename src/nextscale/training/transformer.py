"""Stage 2: train a transformer on token pyramids, from a token cache or from images tokenised on the way.

Recipe: paper, section 4 and appendix; the loop is the same for every model kind (see `objective`).
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nextscale.catalogue import find_model
from nextscale.checkpoint import ModelConfig, fingerprint, save_model
from nextscale.config import to_dict
from nextscale.data.source import ImageSource
from nextscale.data.stream import ImageStream, Position
from nextscale.data.tokens import (
    TokenBatch,
    TokenCache,
    cached_batches,
    encoded_batches,
    is_token_cache,
    open_tokens,
)
from nextscale.models.families import Model, kind_of
from nextscale.pictures import grid, save_image
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import PRECISIONS, autocast, resolve_device, resolve_dtype
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.config import TransformerTraining
from nextscale.training.distributed import any_process, gradients_at_the_end, launched, main_decides, wrap
from nextscale.training.heldout import class_names, class_places, describe, describe_heldout, measure, spread_tokens
from nextscale.training.images import image_batches, load_position, open_images, save_position
from nextscale.training.loop import (
    Journal,
    Updater,
    counted_steps,
    gradient_scaler,
    require_finite,
)
from nextscale.training.objective import drop_classes, mean_figures, measured_latents, objective_of
from nextscale.training.optimisation import (
    averaged,
    build_optimiser,
    set_schedule,
)
from nextscale.training.run import RunFolder, stop_requests
from nextscale.training.sharding import load_sharded, save_sharded, shard, whole_state
from nextscale.training.warm_start import started_config, warm_start

logger = logging.getLogger("nextscale.training")

PART_TOKENS = 1200
"""Tokens that make matrix products efficient on CPU."""


def train_transformer(config: TransformerTraining, *, resume: bool = False) -> Path:
    """Train and export RUN/model; returns that folder. Raises ValueError for unusable settings or data."""
    processes = launched()
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.precision, device)
    tokenizer = find_model(config.tokenizer).tokenizer().to(device).requires_grad_(False)
    source = open_tokens_or_images(config, tokenizer)
    measured_on = replace(config, data=config.heldout, stream=False)
    heldout = open_tokens_or_images(measured_on, tokenizer) if config.heldout else None
    assert not isinstance(heldout, ImageStream)
    names = class_names(source)
    places = None if heldout is None else class_places(class_names(heldout), names, config.heldout)
    stored = find_model(config.init_from) if config.init_from else None
    start = None if stored is None else stored.transformer()
    if start is None:
        shared = {name: getattr(tokenizer.config, name) for name in ("scales", "codebook_size", "latent_channels")}
        fitted = replace(config.model, classes=len(names), **shared)
    else:
        fitted = started_config(start.config, config.model, tokenizer.config, len(names), config.init_from)
    fitted = measured_latents(fitted, tokenizer, lambda: spread_tokens(source, tokenizer, dtype))
    identity = fingerprint(tokenizer)
    if config.tokenizer_fingerprint not in ("", identity):
        raise ValueError(f"tokenizer {config.tokenizer}: its weights are not those the settings were made with")
    steps = counted_steps(config, source)
    config = replace(config, model=fitted, tokenizer_fingerprint=identity, steps=steps)
    run = RunFolder(Path(config.out), keep=config.keep)
    main_decides(lambda: run.start(to_dict(config), resume=resume), processes)

    torch.manual_seed(config.seed)
    objective = objective_of(fitted, tokenizer, label_smoothing=config.label_smoothing)
    model = objective.build(gamma=config.gamma).to(device)
    model.checkpointing = config.checkpointing
    if start is not None and stored is not None:
        known = warm_start(model, names, start, stored.config().class_names)
        logger.info("starts from %s, which knows %d of %d classes", config.init_from, known, len(names))
    average = averaged(model, config.optimiser.ema)
    sharded = config.parallel == "fsdp" and processes.world > 1
    if sharded:
        for module in (model, average.module):
            shard(module, objective.units(module), device)
    optimiser = build_optimiser(model, config.optimiser, objective.no_decay)
    scaler = gradient_scaler(device, dtype)
    updater = Updater(model, optimiser, clip=config.optimiser.clip, average=average, scaler=scaler)
    first = 0
    if resume and sharded:
        first = run.load_sharded(lambda folder: load_sharded(updater, folder))
    elif resume and (state := run.load_checkpoint()) is not None:
        first = state["step"]
        updater.restore(state)
    if first:
        logger.info("resumed at step %d", first)
    if config.compile:
        model.compile()
    training = model if sharded else wrap(model, processes)
    journal = Journal(run.path, config, start=first, title="transformer", main=processes.is_main)
    done = first

    position = load_position(run, first, processes) if config.stream else None
    batches = training_batches(source, config, tokenizer, dtype, start=first, position=position)
    with stop_requests() as stop, closing(batches):
        for step in range(first, config.steps):
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
            if done % config.checkpoint_every == 0 or stopping or done == config.steps:
                save_position(run, done, processes, batch.position)
                if sharded:
                    run.save_sharded(done, lambda folder: save_sharded(updater, folder), processes)
                elif processes.is_main:
                    run.save_checkpoint(done, {"step": done} | updater.state())
            if done % config.sample_every == 0 or done == config.steps:
                whole = whole_state(average) if sharded else None  # all processes take part
                if processes.is_main:
                    module = average.module if whole is None else objective.rebuilt(whole)
                    if heldout is not None:
                        measured = measure(
                            objective, module, heldout, config, tokenizer,
                            unconditional=fitted.unconditional, places=places,
                        )  # fmt: skip
                        journal.write(done, measured)
                        logger.info("held out at step %d: %s", done, describe_heldout(measured))
                    export(module, tokenizer, names, config, run, done)
            if stopping:
                break
    journal.close()
    if done < config.steps:
        raise KeyboardInterrupt
    return run.path / "model"


def open_tokens_or_images(config: TransformerTraining, tokenizer: VQVAE) -> TokenCache | ImageSource | ImageStream:
    """A token cache that this tokenizer made, or images. Raises ValueError."""
    if is_token_cache(config.data):
        return open_tokens(config.data, tokenizer=tokenizer)
    return open_images(config)


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
    model: Model,
    tokenizer: VQVAE,
    names: tuple[str, ...],
    config: TransformerTraining,
    run: RunFolder,
    step: int,
) -> None:
    """Write RUN/model and a grid of samples, up to 16 classes in 4 or more images."""
    described = ModelConfig(
        kind=kind_of(config.model).kind,
        class_names=names,
        guidance=config.guidance,
        top_k=config.top_k,
        top_p=config.top_p,
    )
    dtype = PRECISIONS[config.export]
    save_model(run.path / "model", described, tokenizer=tokenizer, transformer=model, dtype=dtype)
    pipeline = VARPipeline(tokenizer, model.eval(), described)
    classes = list(range(min(16, len(names)))) or [None]
    generation = pipeline.generate(classes, seeds=range(16))
    save_image(grid(generation.images), run.path / "samples" / f"{step:08d}.png")
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
