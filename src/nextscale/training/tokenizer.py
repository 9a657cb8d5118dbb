"""Stage 1: train the multi-scale VQVAE on images.

Loss: L1 + L2 on pixels, a perceptual distance, the judgement of a discriminator, and the quantiser's. The codebook
starts from encoder outputs and dead codes restart from the batch.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nextscale.catalogue import find_model
from nextscale.checkpoint import ModelConfig, save_model
from nextscale.config import to_dict
from nextscale.data.loader import iterate_images, to_float
from nextscale.data.source import ImageSource, open_source
from nextscale.data.stream import ImageStream
from nextscale.evaluation.plots import can_plot, plot_codebook
from nextscale.pictures import grid, save_image, to_images
from nextscale.runtime import PRECISIONS, autocast, resolve_device, resolve_dtype
from nextscale.tokenizer.usage import CodebookUsage
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.adversarial import Adversary
from nextscale.training.config import TokenizerTraining
from nextscale.training.distributed import any_process, launched, main_decides, wrap
from nextscale.training.images import columns, image_batches, load_position, open_images, save_position
from nextscale.training.loop import Journal, Updater, counted_steps, require_finite
from nextscale.training.optimisation import (
    averaged,
    build_optimiser,
    set_schedule,
)
from nextscale.training.perceptual import PerceptualDistance
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
    dtype = resolve_dtype(config.precision, device)
    source = open_images(config)
    heldout = open_source(config.heldout, **columns(config)) if config.heldout else source
    if isinstance(heldout, ImageStream):
        raise ValueError("a stream cannot be measured on; give other images with --heldout")
    config = replace(config, steps=counted_steps(config, source))
    start = find_model(config.init_from).tokenizer() if config.init_from else None
    if start is not None:
        others = {"scales": config.init_scales, "phi_map": ()} if config.init_scales else {}
        config = replace(config, model=replace(start.config, beta=config.model.beta, **others))
        if config.model.schedule.final != start.schedule.final:
            raise ValueError(
                f"init_scales {config.model.schedule}: the last scale must be that of {config.init_from}, "
                f"{start.schedule.final[0]}x{start.schedule.final[1]}"
            )
    run = RunFolder(Path(config.out), keep=config.keep)
    main_decides(lambda: run.start(to_dict(config), resume=resume), processes)

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
    first = 0
    usage = CodebookUsage(len(model.schedule), config.model.codebook_size, device)
    state = run.load_checkpoint() if resume else None
    if state is not None:
        first = state["step"]
        updater.restore(state)
        usage.counts = state["usage"].to(device)
        if adversary is not None:
            adversary.updater.restore(state["adversary"])
        logger.info("resumed at step %d", first)
    if config.compile:
        model.encoder.compile()
        model.decoder.compile()
    training = wrap(model, processes)
    batches = image_batches(
        source, config, config.model.image_size, processes, start=first,
        position=load_position(run, first, processes) if config.stream else None,
    )  # fmt: skip
    journal = Journal(run.path, config, start=first, title="tokenizer", main=processes.is_main)
    best_perplexity = torch.ones(len(model.schedule))
    done = first

    with stop_requests() as stop, closing(batches):
        for step in range(first, config.steps):
            batch = next(batches)
            images = to_float(batch.images.to(device)).contiguous(memory_format=torch.channels_last)
            torch.manual_seed(hash((config.seed, step, processes.rank)))
            if step == 0 and (start is None or config.init_scales):
                with autocast(device, dtype), torch.no_grad():
                    start_codebook(model, model.features(images))
            set_schedule(optimiser, step, config.steps, config.optimiser, config.batch_size)
            with autocast(device, dtype):
                reconstructed, quantized = training(images)
                loss, parts = criterion(images, reconstructed)
            require_finite(loss + quantized.loss, step, run.path, {"images": images}, processes.rank)
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
                    scores = adversary.trained(torch.cat(adversary.shown(images, reconstructed.detach().float())))
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
                    restarted = restart_dead_codes(model, optimiser, usage, images, config.restart_below)
                    average.module.quantizer.codebook.data[restarted] = model.quantizer.codebook.data[restarted]
                    parts["restarted"] = restarted.sum()
                parts |= usage.summary()
                usage.reset()
            journal.step(done, parts, norm, lambda v: f"loss {v['loss']:.4f}  L1 {v['l1']:.4f}")
            stopping = any_process(stop.is_set())
            saving = stopping or done == config.steps or done % config.checkpoint_every == 0
            if saving:
                save_position(run, done, processes, batch.position)
            if saving and processes.is_main:
                state = {"step": done, "usage": usage.counts} | updater.state()
                if adversary is not None:
                    state["adversary"] = adversary.updater.state()
                run.save_checkpoint(done, state)
            if processes.is_main and (done % config.sample_every == 0 or done == config.steps):
                measured = measure(average.module, heldout, config, device, run.path / "samples" / f"{done:08d}.png")
                journal.write(done, measured)
                logger.info("held out at step %d: %s", done, describe(measured))
                if can_plot() and journal.metrics is not None:
                    plot_codebook(model.schedule, journal.metrics.lines(), run.path / "codebook.png")
                described = ModelConfig(kind="tokenizer", class_names=source.class_names)
                save_model(run.path / "model", described, tokenizer=average.module, dtype=PRECISIONS[config.export])
            if stopping:
                break
    journal.close()
    if done < config.steps:
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
    model: VQVAE, optimiser: torch.optim.Optimizer, usage: CodebookUsage, images: Tensor, below: float
) -> Tensor:
    """Move codes used less than `below` x the average onto residual vectors of the batch; (V,) bool of those."""
    quantizer = model.quantizer
    totals = usage.counts.sum(dim=0).float()
    dead = totals < below * totals.mean()
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
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


@torch.no_grad()
def measure(
    model: VQVAE, heldout: ImageSource, config: TokenizerTraining, device: torch.device, picture: Path
) -> dict[str, Any]:
    """Held-out PSNR, mean squared error after each scale and codebook usage; writes a sheet of strips."""
    model.eval()
    usage = CodebookUsage(len(model.schedule), config.model.codebook_size, device)
    count = min(config.heldout_images, len(heldout))
    errors: list[Tensor] = []
    dtype = resolve_dtype(config.precision, device)
    for number, batch in enumerate(
        iterate_images(heldout, config.model.image_size, batch_size=64, indices=range(count))
    ):
        images = to_float(batch.images.to(device))
        with autocast(device, dtype):
            tokens = model.encode(images)
            stages = torch.stack(list(model.decode_scales(tokens)))  # (K, B, 3, H, W)
        usage.add(tokens)
        errors.append((stages - images).square().flatten(2).mean(dim=2))
        if number == 0:
            strips = torch.cat([images[:8, None], stages[:, :8].transpose(0, 1)], dim=1).flatten(0, 1)
            save_image(grid(to_images(strips), columns=len(stages) + 1), picture)
    model.train()
    squared = torch.cat(errors, dim=1)  # (K, images), of values in [-1, 1]
    psnr = (10 * torch.log10(4 / squared)).mean(dim=1)
    summary = {f"heldout_{name}": value for name, value in usage.summary().items()}
    plain = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in summary.items()}
    return {"heldout_psnr": float(psnr[-1]), "heldout_psnr_after": psnr.tolist(), **plain}


def describe(measured: dict[str, Any]) -> str:
    perplexity = ", ".join(f"{value:.0f}" for value in measured["heldout_perplexity"])
    return f"PSNR {measured['heldout_psnr']:.2f} dB, codes used {measured['heldout_used']:.1%}, perplexity {perplexity}"
