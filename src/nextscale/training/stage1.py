"""Stage 1: train the multi-scale VQVAE on images.

Loss: L1 + L2 on pixels, a perceptual distance, the score of a discriminator, and the quantiser's. The codebook starts
from encoder outputs, and dead codes restart from the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nextscale.catalogue import find_model, find_tokenizer
from nextscale.checkpoint import ModelConfig, save_model
from nextscale.config import from_dict
from nextscale.data.loader import ImageBatch
from nextscale.data.source import ImageSource
from nextscale.data.stream import ImageStream, Position
from nextscale.evaluation.features import identity
from nextscale.nn.conv import channels_last
from nextscale.nn.perceptual import PerceptualDistance
from nextscale.pictures import grid, save_image, to_float, to_images
from nextscale.plots import can_plot, plot_codebook
from nextscale.progress import Announce
from nextscale.runtime import STORED_DTYPES, autocast
from nextscale.tokenizer.config import VQVAEConfig
from nextscale.tokenizer.quantizer import CodebookUsage, nearest_others
from nextscale.tokenizer.vqvae import VQVAE
from nextscale.training.adversarial import Adversary
from nextscale.training.config import TokenizerTraining
from nextscale.training.disturbance import Disturbance, require_disturbable
from nextscale.training.exactness import deterministic
from nextscale.training.heldout import measure_tokenizer, reconstruction_line
from nextscale.training.images import image_batches, open_samples, samples_apart
from nextscale.training.loop import Journal, StepResult, TrainingStage, counted_steps, train
from nextscale.training.optimisation import Average, Updater
from nextscale.training.parallel import add_up, broadcast, wrap
from nextscale.training.transfer import to_device
from nextscale.training.warm_start import rescaled_state

logger = logging.getLogger("nextscale.training")


def train_tokenizer(config: TokenizerTraining, *, resume: bool = False) -> Path:
    """Train and export RUN/model; returns that folder.

    Raises ValueError for unusable settings or data, TrainingDiverged, and TrainingStopped after a signal.
    """
    with deterministic(config.deterministic):
        return train(TokenizerStage(config, resume=resume))


class TokenizerStage(TrainingStage[TokenizerTraining]):
    """A VQVAE, its losses, and a discriminator where the settings ask for one."""

    title = command = "tokenizer"
    allows_fp16 = False

    def __init__(self, config: TokenizerTraining, *, resume: bool) -> None:
        super().__init__(config, resume=resume)
        self.source = open_samples(self.config)
        images, heldout = samples_apart(self.source, self.config)
        measured = images if heldout is None else heldout
        if isinstance(measured, ImageStream):
            raise ValueError("a stream cannot be measured on; give other images with --heldout")
        self.images, self.heldout, self.measured = images, heldout, measured
        self.config = replace(self.config, steps=counted_steps(self.config, images))
        start = self.settle_architecture()
        require_disturbable(self.config.model, self.config.disturbance)

        config = self.config
        torch.manual_seed(config.seed)
        self.model = VQVAE(config.model).to(self.device)
        if start is not None:
            self.model.load_state_dict(fitting_state(start, self.model))
        self.teacher = self.find_teacher()
        self.fresh_codebook = start is None or bool(config.init_scales)
        if config.decoder_only:
            for part in (self.model.encoder, self.model.quant_conv, self.model.quantizer):
                part.requires_grad_(False)
        self.loss = channels_last(ReconstructionLoss(config).to(self.device))
        self.average = Average(self.model, config.optimiser.ema)
        self.updaters = {"": Updater(self.model, config.optimiser, no_decay)}
        self.adversary = None
        if config.adversary.adversarial:
            self.adversary = Adversary(config.adversary, config.optimiser, self.device, config.model.image_size)
            self.updaters["adversary"] = self.adversary.updater
        self.usage = CodebookUsage(len(self.model.schedule), config.model.codebook_size, self.device)
        self.best_perplexity = torch.ones(len(self.model.schedule))

    def settle_architecture(self) -> VQVAE | None:
        """Put the architecture that `init_from` decides into the settings; returns the tokenizer to start from.

        None without `init_from`, and where a checkpoint has all that is needed: the other model may be gone by then.
        """
        config = self.config
        if not config.init_from:
            return None
        if self.before is not None and self.run.checkpoints():
            self.needs_checkpoint = True
            recorded = from_dict(VQVAEConfig, self.before.settings["model"])
            channels = config.model.decoder_channels or recorded.decoder_channels
            self.config = replace(config, model=replace(recorded, beta=config.model.beta, decoder_channels=channels))
            return None
        start = find_tokenizer(config.init_from)
        others: dict[str, Any] = {"scales": config.init_scales, "phi_map": ()} if config.init_scales else {}
        if channels := config.model.decoder_channels:
            if not config.decoder_only or start.config.architecture != "cnn":
                raise ValueError(
                    "decoder_channels of another tokenizer are those of its CNN's new decoder: they need decoder_only, "
                    "and no ViT"
                )
            others["decoder_channels"] = channels
        self.config = replace(config, model=replace(start.config, beta=config.model.beta, **others))
        wanted, known = self.config.model.schedule, start.config.schedule
        if wanted.final != known.final:
            raise ValueError(
                f"init_scales {wanted}: the last scale must be that of {config.init_from}, "
                f"{known.final[0]}x{known.final[1]}"
            )
        return start

    def find_teacher(self) -> VQVAE | None:
        """The tokenizer to start from, as it was, where its decoder teaches the new one."""
        if not self.config.teacher:
            return None
        teacher = find_tokenizer(self.config.init_from).to(self.device)
        teacher.set_decoder_dtype(self.dtype)
        return teacher

    def inputs(self) -> dict[str, Any]:
        found, distance = super().inputs(), self.loss.distance
        if distance is not None:
            found["perceptual"] = distance.fingerprint()
        if self.teacher is not None:
            found["teacher"] = identity(self.teacher)
        return found

    def prepare(self) -> None:
        if self.config.compile:
            self.model.encoder.compile()
            self.model.decoder.compile()
        self.wrapped = wrap(self.model, self.processes)

    def state(self) -> dict[str, Any]:
        return super().state() | {"usage": self.usage.counts}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.usage.counts = state["usage"].to(self.device)

    def batches(self, start: int, position: Position | None) -> Generator[ImageBatch, None, None]:
        assert isinstance(self.images, ImageSource | ImageStream)
        size = self.config.model.image_size
        return image_batches(self.images, self.config, size, self.processes, start=start, position=position)

    def step(self, step: int, batch: ImageBatch) -> StepResult:
        config, model, adversary = self.config, self.model, self.adversary
        updater = self.updaters[""]
        pixels = to_float(to_device(batch.images, self.device)).contiguous(memory_format=torch.channels_last)
        if step == 0 and self.fresh_codebook:
            with autocast(self.device, self.dtype), torch.no_grad():
                start_codebook(model, model.features(pixels))
        updater.schedule(step, config.steps, config.batch_size)
        with autocast(self.device, self.dtype):
            reconstructed, quantized = self.wrapped(pixels, self.disturbance(step))
            loss, parts = self.loss(pixels, reconstructed)
        if self.teacher is not None:
            shown = self.teacher.decode(quantized.tokens)
            with autocast(self.device, self.dtype):
                taught, _ = self.loss(shown, reconstructed)
            loss, parts = loss + config.teacher * taught, parts | {"teacher": taught.detach()}
        total = loss + quantized.loss
        figures = {"loss": total.detach(), "quantizer": quantized.loss.detach()} | parts
        if adversary is not None and config.adversary.joined(step, config.steps):
            with autocast(self.device, self.dtype):
                scores = adversary.module(*adversary.shown(reconstructed))
            last = model.decoder.conv_out.weight
            figures |= adversary.backward(reconstructed, (loss, quantized.loss), last, scores)
        else:
            updater.backward(total)
        if adversary is not None and config.adversary.learning(step, config.steps):
            dtype = torch.float32 if adversary.penalises(step) else self.dtype
            with autocast(self.device, dtype):
                scores, penalty = adversary.judge(pixels, reconstructed.detach().float(), step)
            figures |= adversary.learn(scores, step, config.steps, config.batch_size, penalty)
        norm = updater.step()
        self.average.update(model)
        self.usage.add(quantized.tokens)
        if (step + 1) % config.restart_every == 0:
            figures |= self.look_after_codes(step + 1, pixels)
        return StepResult(figures, norm, total.detach(), {"images": pixels})

    def disturbance(self, step: int) -> Disturbance | None:
        """What the decoder sees at a step instead of perfect codes; None where it sees these."""
        settings, quantizer = self.config.disturbance, self.model.quantizer
        share = settings.tokens_at(step, self.config.steps)
        others = nearest_others(quantizer.codes(), settings.disturb_codes) if settings.disturb and share else None
        if others is None and not settings.scale_dropout:
            return None
        return Disturbance(settings, quantizer, share, others)

    def look_after_codes(self, done: int, pixels: Tensor) -> dict[str, Tensor]:
        """Warn of collapsed scales and restart dead codes; returns the usage since the last call."""
        usage, model, figures = self.usage, self.model, {}
        add_up(usage.counts)
        for scale in usage.collapsed(self.best_perplexity):
            size = "x".join(map(str, model.schedule[scale]))
            perplexity = usage.perplexity()[scale]
            logger.warning(
                "step %d: scale %s uses few codes (perplexity %.1f); has it collapsed?", done, size, perplexity
            )
        if done <= 0.8 * self.config.steps and not self.config.decoder_only:
            restarted = self.restart_dead_codes(pixels)
            average = cast(VQVAE, self.average.module)
            average.quantizer.codebook.data[restarted] = model.quantizer.codebook.data[restarted]
            figures = {"restarted": restarted.sum()}
        figures |= usage.summary()
        usage.reset()
        return figures

    def restart_dead_codes(self, pixels: Tensor) -> Tensor:
        """Move codes of little use onto residual vectors of the batch; (V,) bool of those."""
        totals = self.usage.counts.sum(dim=0).float()
        dead = totals < self.config.restart_below * totals.mean()
        with torch.no_grad(), autocast(self.device, self.dtype):
            features = self.model.features(pixels).float()
        codes = self.model.quantizer.codebook
        self.model.quantizer.restart(dead, features)
        for value in self.updaters[""].optimiser.state[codes].values():
            if isinstance(value, Tensor) and value.shape == codes.shape:
                value[dead] = 0
        broadcast(codes)
        return dead

    def step_line(self, figures: dict[str, Any]) -> str:
        return f"loss {figures['loss']:.4f}  L1 {figures['l1']:.4f}"

    def measure(self, model: nn.Module, done: int, announce: Announce) -> tuple[dict[str, Any], str]:
        """PSNR and usage of the codes; writes a picture of what each scale adds."""
        assert isinstance(model, VQVAE) and isinstance(self.measured, ImageSource)
        figures, strips = measure_tokenizer(model, self.measured, self.config, self.dtype, announce=announce)
        sheet = grid(to_images(strips.flatten(0, 1)), columns=strips.shape[1])
        save_image(sheet, self.run.path / "samples" / f"{done:08d}.png")
        place = "training" if self.heldout is None else "heldout"
        return {f"{place}_{name}": value for name, value in figures.items()}, reconstruction_line(figures)

    def export(self, model: nn.Module, done: int, journal: Journal, stop: Callable[[], bool]) -> None:
        """Write RUN/model, and a plot of the codes' usage where matplotlib is there.

        A decoder that was taught is written with the transformer of its teacher, if there is one.
        """
        if can_plot():
            plot_codebook(self.model.schedule, journal.lines(), self.run.path / "codebook.png")
        about = ModelConfig(kind="tokenizer", class_names=self.source.class_names, trained_steps=done)
        dtype, transformer = STORED_DTYPES[self.config.export], None
        if self.teacher is not None and (stored := find_model(self.config.init_from)).config().kind != "tokenizer":
            about, transformer = replace(stored.config(), trained_steps=done), stored.transformer()
        save_model(self.run.path / "model", about, tokenizer=cast(VQVAE, model), transformer=transformer, dtype=dtype)


def no_decay(name: str, parameter: Tensor) -> bool:
    """Whether weight decay skips a parameter: vectors and the codebook."""
    return parameter.ndim < 2 or name.endswith("codebook")


def fitting_state(start: VQVAE, model: VQVAE) -> dict[str, Tensor]:
    """The weights of `start` for a tokenizer of another schedule, or with a decoder of another width, which is new."""
    state = rescaled_state(start, model)
    width, former = (part.config.decoder_channels or part.config.channels for part in (model, start))
    if width == former:
        return state
    own = model.state_dict()
    return {name: own[name] if name.startswith("decoder.") else tensor for name, tensor in state.items()}


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


def start_codebook(model: VQVAE, features: Tensor) -> None:
    """Fill the codebook with encoder outputs: each scale gives its share of residual vectors of a batch.

    `features` (B, C, h, w). Without this start most codes never win a single vector.
    """
    with torch.autocast(features.device.type, enabled=False):
        model.quantizer.start(features.float())
    broadcast(model.quantizer.codebook)
