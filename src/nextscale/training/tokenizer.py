"""Stage 1: train the multi-scale VQVAE on images.

Loss: L1 + L2 on pixels, a perceptual distance, the judgement of a discriminator, and the quantiser's. The codebook
starts from encoder outputs and dead codes restart from the batch.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nextscale.catalogue import find_model
from nextscale.checkpoint import ModelConfig, save_model
from nextscale.config import from_dict
from nextscale.data.stream import ImageStream, Position
from nextscale.nn.perceptual import PerceptualDistance
from nextscale.pictures import to_float
from nextscale.plots import can_plot, plot_codebook
from nextscale.runtime import PRECISIONS, autocast, resolve_device
from nextscale.tokenizer.config import VQVAEConfig
from nextscale.tokenizer.usage import CodebookUsage
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.adversarial import Adversary
from nextscale.training.config import TokenizerTraining
from nextscale.training.distributed import any_process, launched, main_decides, wrap
from nextscale.training.images import described, image_batches, images_apart, load_position, open_images, save_position
from nextscale.training.loop import (
    Journal,
    Updater,
    counted_steps,
    require_finite,
    settled_precision,
    shown_at,
)
from nextscale.training.optimisation import (
    averaged,
    build_optimiser,
    set_schedule,
)
from nextscale.training.reconstruction import describe, measure
from nextscale.training.record import continued, identity_of
from nextscale.training.run import RunFolder, stop_requests
from nextscale.training.warm_start import rescaled_state

logger = logging.getLogger("nextscale.training")


class ReconstructionLoss(nn.Module):
    """Weighted sum of the pixel errors and the perceptual distance."""

    def __init__(self, config: TokenizerTraining) -> None:
        super().__init__()
        self.config = config
        self.distance = None
        if config.perceptual:
            self.distance = PerceptualDistance(
                config.perceptual_backbone, weights=config.perceptual_weights, shift=config.perceptual_shift
            )

    def forward(self, images: Tensor, reconstructed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Total and named parts, all scalars."""
        error = reconstructed.float() - images
        parts = {"l1": error.abs().mean(), "l2": error.square().mean()}
        total = self.config.l1 * parts["l1"] + self.config.l2 * parts["l2"]
        if self.distance is not None:
            parts["perceptual"] = self.distance(reconstructed, images)
            total = total + self.config.perceptual * parts["perceptual"]
        return total, {name: part.detach() for name, part in parts.items()}


def train_tokenizer(config: TokenizerTraining, *, resume: bool = False) -> Path:
    """Train and export RUN/model; returns that folder. Raises ValueError for unusable settings or data."""
    processes = launched()
    device = resolve_device(config.device)
    run = RunFolder(Path(config.out), keep=config.keep)
    before = run.look(resume=resume)
    config, dtype = settled_precision(continued(config, before), device, half=False)
    source = open_images(config)
    images, heldout = images_apart(source, config)
    shown = images if heldout is None else heldout
    if isinstance(shown, ImageStream):
        raise ValueError("a stream cannot be measured on; give other images with --heldout")
    config = replace(config, steps=counted_steps(config, images))
    start = None
    if config.init_from and before is not None and run.checkpoints():
        recorded = from_dict(VQVAEConfig, before.settings["model"])  # the other model may be gone by now
        config = replace(config, model=replace(recorded, beta=config.model.beta))
    elif config.init_from:
        start = find_model(config.init_from).tokenizer()
        others = {"scales": config.init_scales, "phi_map": ()} if config.init_scales else {}
        config = replace(config, model=replace(start.config, beta=config.model.beta, **others))
        if config.model.schedule.final != start.schedule.final:
            raise ValueError(
                f"init_scales {config.model.schedule}: the last scale must be that of {config.init_from}, "
                f"{start.schedule.final[0]}x{start.schedule.final[1]}"
            )

    torch.manual_seed(config.seed)
    model = VQVAE(config.model).to(device)
    if start is not None:
        model.load_state_dict(rescaled_state(start, model))
    if config.decoder_only:
        for part in (model.encoder, model.quant_conv, model.quantizer):
            part.requires_grad_(False)
    criterion = ReconstructionLoss(config).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = build_optimiser(model, config.optimiser, lambda name, p: p.ndim < 2 or name.endswith("codebook"))
    average = averaged(model, config.optimiser.ema)
    updater = Updater(model, optimiser, clip=config.optimiser.clip, average=average)
    adversary = Adversary(config.adversary, config.optimiser, device) if config.adversary.adversarial else None

    def begin() -> None:
        inputs = {"data": identity_of(source), "heldout": identity_of(heldout if config.heldout else None)}
        perceptual = {"perceptual": criterion.distance.fingerprint()} if criterion.distance is not None else {}
        run.start(config, "tokenizer", inputs | perceptual, before)

    main_decides(begin, processes)  # everything that can be refused has been
    if processes.is_main:
        logger.info(described(source, heldout, config))
    first = 0
    usage = CodebookUsage(len(model.schedule), config.model.codebook_size, device)
    state = run.load_checkpoint() if before is not None else None
    if state is not None:
        first = state["step"]
        updater.restore(state)
        usage.counts = state["usage"].to(device)
        if adversary is not None:
            adversary.updater.restore(state["adversary"])
        logger.info("resumed at step %d", first)
    elif config.init_from and start is None:
        raise ValueError(f"{run.path}: none of its checkpoints can be read; remove the folder to begin again")
    if config.compile:
        model.encoder.compile()
        model.decoder.compile()
    training = wrap(model, processes)
    batches = image_batches(
        images, config, config.model.image_size, processes, start=first,
        position=load_position(run, first, processes) if config.stream else None,
    )  # fmt: skip
    journal = Journal(run.path, config, start=first, title="tokenizer", main=processes.is_main)
    best_perplexity = torch.ones(len(model.schedule))
    done, current = first, True

    def save(position: Position | None) -> None:
        save_position(run, done, processes, position)
        if processes.is_main:
            state = {"step": done, "usage": usage.counts} | updater.state()
            run.save_checkpoint(done, state | ({"adversary": adversary.updater.state()} if adversary else {}))

    def show() -> bool:
        """Measure and export; whether all processes are through with it, not stopped on the way."""
        place = "training" if heldout is None else "heldout"
        measured = None
        if processes.is_main:
            measured = measure(
                average.module, shown, config, dtype, run.path / "samples" / f"{done:08d}.png",
                stop=stop.is_set, announce=journal.progress.aside,
            )  # fmt: skip
            if measured is not None:
                journal.write(done, {f"{place}_{name}": value for name, value in measured.items()})
                logger.info("%s images at step %d: %s", place.replace("held", "held-"), done, describe(measured))
                if can_plot() and journal.metrics is not None:
                    plot_codebook(model.schedule, journal.metrics.lines(), run.path / "codebook.png")
                about = ModelConfig(kind="tokenizer", class_names=source.class_names, trained_steps=done)
                save_model(run.path / "model", about, tokenizer=average.module, dtype=PRECISIONS[config.export])
        return not any_process(processes.is_main and measured is None)

    with stop_requests() as stop, closing(batches):
        if shown_at(config, first) and any_process(processes.is_main and run.is_behind(first)):
            current = show()
        for step in range(first, config.steps if current else first):
            batch = next(batches)
            pixels = to_float(batch.images.to(device)).contiguous(memory_format=torch.channels_last)
            torch.manual_seed(hash((config.seed, step, processes.rank)))
            if step == 0 and (start is None or config.init_scales):
                with autocast(device, dtype), torch.no_grad():
                    start_codebook(model, model.features(pixels))
            set_schedule(optimiser, step, config.steps, config.optimiser, config.batch_size)
            with autocast(device, dtype):
                reconstructed, quantized = training(pixels)
                loss, parts = criterion(pixels, reconstructed)
            require_finite(loss + quantized.loss, step, run.path, {"images": pixels}, processes.rank)
            parts = {"loss": (loss + quantized.loss).detach(), "quantizer": quantized.loss.detach()} | parts
            if adversary is not None and config.adversary.joined(step, config.steps):
                with autocast(device, dtype):
                    scores = adversary.module(*adversary.shown(reconstructed))
                parts |= adversary.backward(
                    reconstructed, (loss, quantized.loss), model.decoder.conv_out.weight, scores
                )
            else:
                updater.backward(loss + quantized.loss)
            if adversary is not None and config.adversary.learning(step, config.steps):
                with autocast(device, dtype):
                    scores = adversary.trained(torch.cat(adversary.shown(pixels, reconstructed.detach().float())))
                parts |= adversary.learn(scores, step, config.steps, config.batch_size)
            norm = updater.step()
            usage.add(quantized.tokens)

            done = step + 1
            if done % config.restart_every == 0:
                usage.reduce()
                for scale in usage.collapsed(best_perplexity):
                    logger.warning(
                        "step %d: scale %s uses few codes (perplexity %.1f); has it collapsed?",
                        done, "x".join(map(str, model.schedule[scale])), usage.perplexity()[scale],
                    )  # fmt: skip
                if done <= 0.8 * config.steps and not config.decoder_only:
                    restarted = restart_dead_codes(model, optimiser, usage, pixels, config.restart_below, dtype)
                    average.module.quantizer.codebook.data[restarted] = model.quantizer.codebook.data[restarted]
                    parts["restarted"] = restarted.sum()
                parts |= usage.summary()
                usage.reset()
            journal.step(done, parts, norm, lambda v: f"loss {v['loss']:.4f}  L1 {v['l1']:.4f}")
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


def start_codebook(model: VQVAE, features: Tensor) -> None:
    """Fill the codebook with encoder outputs: each scale gives its share of residual vectors of a batch.

    `features` (B, C, h, w). Without this start most codes never win a single vector.
    """
    quantizer = model.quantizer
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        vectors = torch.cat(quantizer.residual_vectors(features.float(), limit=4096))
        picks = torch.randint(len(vectors), (len(quantizer.codebook),), device=vectors.device)
        jitter = torch.randn_like(quantizer.codebook) * vectors.std() * 0.01
        quantizer.codebook.copy_(vectors[picks] + jitter)
    broadcast(quantizer.codebook)


def restart_dead_codes(
    model: VQVAE,
    optimiser: torch.optim.Optimizer,
    usage: CodebookUsage,
    images: Tensor,
    below: float,
    dtype: torch.dtype,
) -> Tensor:
    """Move codes used less than `below` x the average onto residual vectors of the batch; (V,) bool of those."""
    quantizer = model.quantizer
    totals = usage.counts.sum(dim=0).float()
    dead = totals < below * totals.mean()
    with torch.no_grad(), autocast(images.device, dtype):
        features = model.features(images).float()
    with torch.no_grad():
        vectors = torch.cat(quantizer.residual_vectors(features, limit=4096))
        picks = torch.randint(len(vectors), (len(quantizer.codebook),), device=vectors.device)
        quantizer.codebook[dead] = vectors[picks][dead]
        for value in optimiser.state[quantizer.codebook].values():
            if isinstance(value, Tensor) and value.shape == quantizer.codebook.shape:
                value[dead] = 0
    broadcast(quantizer.codebook)
    return dead


def broadcast(parameter: Tensor) -> None:
    """Give every process the main one's value."""
    if dist.is_initialized():
        dist.broadcast(parameter.data, 0)
