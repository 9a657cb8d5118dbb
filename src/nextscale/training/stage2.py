"""Stage 2: train a model of any family on token pyramids, from a token cache or from images tokenised on the way.

Recipe: paper, section 4 and appendix. What families differ in is asked of `families.base.Family`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from nextscale.catalogue import find_model, find_tokenizer
from nextscale.checkpoint import ModelConfig, fingerprint, module_from_state, save_model
from nextscale.conditions import TextPrompts, reads_prompts
from nextscale.config import from_dict
from nextscale.data.source import ImageSource
from nextscale.data.stream import Position
from nextscale.data.tokens import TokenBatch, TokenCache, cached_batches
from nextscale.families import family_of
from nextscale.families.base import Family, Figures
from nextscale.pictures import grid, save_image
from nextscale.pipeline import VARPipeline
from nextscale.progress import Announce
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import STORED_DTYPES, autocast
from nextscale.tokenizer.vqvae import PixelTokenizer
from nextscale.training.collapse import FEWEST, IMAGES, Watch, warn_of_collapse
from nextscale.training.config import TransformerTraining
from nextscale.training.exactness import deterministic
from nextscale.training.heldout import (
    class_places,
    heldout_batches,
    heldout_line,
    mean_figures,
    measure_transformer,
    prediction_line,
    spread_tokens,
)
from nextscale.training.images import image_batches, open_samples, samples_apart, spread
from nextscale.training.last_map import LastMapMasking
from nextscale.training.loop import Journal, StepResult, TrainingStage, counted_steps, train
from nextscale.training.optimisation import Average, Updater, averaging_decay, frozen, gradient_scaler, training_share
from nextscale.training.parallel import (
    average_buffers,
    average_gradients,
    gradients_at_the_end,
    shard,
    whole_state,
    wrap,
)
from nextscale.training.parts import drop_classes, on_device, split_batch, suggested_parts
from nextscale.training.prompts import (
    example_prompts,
    remember_features,
    require_captions,
    some_prompts,
    text_of,
    training_prompts,
)
from nextscale.training.self_correction import SelfCorrection
from nextscale.training.table import table_or_cache
from nextscale.training.tokens import encoded_batches
from nextscale.training.transfer import to_device
from nextscale.training.warm_start import start_prompts, started_config, warm_start

logger = logging.getLogger("nextscale.training")

SAMPLES = 16
"""Images in the pictures that a run draws."""
LOOKED_AT = 4096
"""Training images of which a new model may take averages."""
FROM_TOKENIZER = ("scales", "codebook_size", "latent_channels")
"""Settings of an architecture that are the tokenizer's."""


def train_transformer(config: TransformerTraining, *, resume: bool = False) -> Path:
    """Train and export RUN/model; returns that folder.

    Raises ValueError for unusable settings or data, TrainingDiverged, and TrainingStopped after a signal.
    """
    with deterministic(config.deterministic):
        return train(TransformerStage(config, resume=resume))


class TransformerStage(TrainingStage[TransformerTraining]):
    """A model of some family, on the tokens of a finished tokenizer, or on images where it reads no tokens."""

    title = "transformer"

    def __init__(self, config: TransformerTraining, *, resume: bool) -> None:
        self.family = family_of(config.model)
        self.allows_fp16 = not self.family.penalises_gradients
        super().__init__(config, resume=resume)
        config = self.config
        self.command = self.family.kind
        self.tokenizer: Any = None
        if self.family.reads_tokens:
            self.tokenizer = find_tokenizer(config.tokenizer).to(self.device).requires_grad_(False)
        identity = "" if self.tokenizer is None else fingerprint(self.tokenizer)
        if config.tokenizer_fingerprint not in ("", identity):
            raise ValueError(f"tokenizer {config.tokenizer}: its weights are not those the settings were made with")
        self.source = open_samples(config, identity)
        self.samples, self.heldout = samples_apart(self.source, config, identity)
        self.measured = self.heldout
        self.names = self.source.class_names if config.condition == "class" else ()
        self.examples: tuple[str, ...] = ()
        if config.condition == "text":
            require_captions(self.source, config.data)
            self.examples = example_prompts(self.heldout or self.source)
        self.places = None
        if self.heldout is not None and config.condition == "class":
            self.places = class_places(self.heldout.class_names, self.names, config.heldout)
        self.sharded = config.parallel == "fsdp" and self.processes.world > 1
        architecture, start = self.settle_architecture()
        if reads_prompts(architecture):
            remember_features(architecture.text, self.source, config.data)
        require_weights(config.scale_weights, self.family, architecture)
        self.training_only = self.losses_of_training(architecture)
        require_trainable(config, self.family)
        steps = counted_steps(config, self.samples)
        self.config = replace(config, model=architecture, tokenizer_fingerprint=identity, steps=steps)
        self.size: tuple[int, int] = (architecture if self.tokenizer is None else self.tokenizer.config).image_size

        torch.manual_seed(config.seed)
        self.model: Any = self.family.network(architecture)
        self.family.initialise(self.model, gamma=config.gamma)
        self.model.to(self.device)
        if config.checkpointing:
            if not hasattr(self.model, "checkpointing"):
                raise ValueError(f"checkpointing is not for {self.family.title}; leave it off")
            self.model.checkpointing = True
        if start is not None and reads_prompts(architecture):
            logger.info("starts from %s: %s", config.init_from, start_prompts(self.model, start[0]))
        elif start is not None:
            known = warm_start(self.model, self.names, *start)
            logger.info("starts from %s, which knows %d of %d classes", config.init_from, known, len(self.names))
        self.family.equip(self.model, self.config, self.some_images)
        self.average = Average(self.model, config.optimiser.ema, part=self.family.generates(self.model))
        if self.sharded:
            for module in (self.model, self.average.module):
                shard(module, self.family.units(module), self.device, self.dtype)
        self.watch: Watch | None = None
        self.updaters: dict[str, Updater] = {}
        for name, player in self.family.players(self.model).items():
            scaler = gradient_scaler(self.device, self.dtype)
            rate = config.optimiser.learning_rate * self.family.rate_of(name)
            optimiser = replace(config.optimiser, learning_rate=rate)
            self.updaters[name] = Updater(player, optimiser, self.family.no_decay, scaler=scaler)
        if self.sharded and len(self.updaters) > 1:
            raise ValueError("parallel fsdp splits models that have one optimiser; use ddp")

    def some_images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images from all over the data and their labels, in batches; none where a checkpoint has it all."""
        if self.before is not None and self.run.checkpoints(sharded=self.sharded):
            self.needs_checkpoint = True
            return iter(())
        if not isinstance(self.samples, ImageSource):
            raise ValueError("averages over images of each class need all images at hand: leave out --stream")
        return heldout_batches(self.samples, None, self.size, spread(len(self.samples), LOOKED_AT), self.dtype)

    def settle_architecture(self) -> tuple[Any, tuple[Any, tuple[str, ...]] | None]:
        """What is trained, fitted to tokenizer and data, and the model that it starts from with its classes.

        No model without `init_from`, and where a checkpoint has all that is needed: it may be gone by then.
        """
        config, tokenizer, start = self.config, self.tokenizer, None
        wanted = config.model
        if config.masked_last:
            if not self.family.refines:
                raise ValueError(f"masked_last is not for {self.family.title}; leave it out")
            wanted = replace(wanted, refinable=True)
        text = text_of(config)
        if text is not None:
            if not hasattr(wanted, "text"):
                raise ValueError(f"condition text is not for {self.family.title}; leave it out")
            wanted = replace(wanted, classes=0, text=text)
        shared = {} if tokenizer is None else {name: getattr(tokenizer.config, name) for name in FROM_TOKENIZER}
        if config.init_from and self.before is not None and self.run.checkpoints(sharded=self.sharded):
            self.needs_checkpoint = True
            fitted = from_dict(type(config.model), self.before.settings["model"])
        elif config.init_from:
            stored = find_model(config.init_from)
            start = stored.transformer(), stored.config().class_names
            fitted = started_config(start[0].config, wanted, shared, len(self.names), config.init_from)
        else:
            fitted = replace(wanted, classes=len(self.names), **shared)
        if tokenizer is not None:
            fitted = self.family.fitted(fitted, tokenizer, lambda: spread_tokens(self.samples, tokenizer, self.dtype))
        return fitted, start

    def losses_of_training(self, architecture: Any) -> dict[str, Any]:
        """What the loss takes in training alone: held-out figures are of tokens without mistakes, none of them known.

        Raises ValueError for a kind of model without it.
        """
        options: dict[str, Any] = {}
        if self.config.self_correct:
            if self.tokenizer is None or not self.family.corrects_itself:
                raise ValueError(f"self_correct is not for {self.family.title}; leave it out")
            options["correction"] = SelfCorrection(self.tokenizer.quantizer, self.config.self_correct)
        if self.family.refines and architecture.refinable:  # also at a share of 0: all parameters have gradients
            options["masking"] = LastMapMasking(self.config.masked_last)
        if self.family.objective is not None:
            options["objective"] = getattr(self.config, "objective")  # noqa: B009 of the kinds that have one
        return options

    def prepare(self) -> None:
        if self.config.compile:
            units = self.family.units(self.model)
            if units and self.device.type == "cuda":
                compile_units(units)
            else:
                self.model.compile()
        alone = self.sharded or len(self.updaters) > 1
        self.wrapped = self.model if alone else wrap(self.model, self.processes)

    def batches(self, start: int, position: Position | None) -> Generator[TokenBatch, None, None]:
        config, processes, samples = self.config, self.processes, self.samples
        if isinstance(samples, TokenCache):
            share = {"rank": processes.rank, "world": processes.world}
            cache = table_or_cache(samples, self.device)
            yield from cached_batches(cache, batch_size=config.batch_size, seed=config.seed, start=start, **share)
            return
        with closing(image_batches(samples, config, self.size, processes, start=start, position=position)) as images:
            yield from encoded_batches(self.tokenizer, images, seed=config.seed, device=self.device, dtype=self.dtype)

    def step(self, step: int, batch: TokenBatch) -> StepResult:
        """Each player in turn: the gradients of its loss over all parts of the batch, then its update."""
        config = self.config
        classes = self.conditions(batch)
        suggested = 1 if self.sharded else suggested_parts(batch.tokens, self.device, compiled=config.compile)
        count = config.accumulate or suggested
        inputs = on_device(batch.tokens, self.device)
        parts = split_batch(inputs, classes, count)
        more = self.training_only
        if self.family.objective is not None:
            more = more | {"share": training_share(step, config.steps)}
        figures: Figures = {}
        norms: Figures = {}
        losses: list[Tensor] = []
        for player, updater in self.updaters.items():
            updater.schedule(step, config.steps, config.batch_size)
            with frozen(other.model for other in self.updaters.values() if other is not updater):
                seen, loss = self.gradients(player, parts, more)
            figures |= seen
            losses.append(loss)
            norms[f"gradient_norm_{player}"] = updater.step()
        if len(self.updaters) > 1:
            average_buffers(self.family.generates(self.model))
        self.average.update(self.model, averaging_decay(step, config.steps, config.optimiser))
        first, *others = norms
        figures |= {name: norms[name] for name in others}
        saved = {"tokens": inputs.packed} if isinstance(inputs, TokenPyramid) else {"images": inputs}
        told = {"classes": classes} if isinstance(classes, Tensor) else {"prompts": classes.tokens}
        return StepResult(figures, norms[first], torch.stack(losses).sum(), saved | told)

    def conditions(self, batch: TokenBatch) -> Tensor | TextPrompts:
        """What the images of a batch are trained with, on the device: classes or captions, some of them left out."""
        config, unconditional = self.config, self.config.model.unconditional
        if config.condition == "class":
            classes = drop_classes(batch.labels, batch.chance, rate=config.class_dropout, unconditional=unconditional)
            return to_device(classes, self.device)
        captions = batch.captions or [""] * len(batch.labels)
        self.examples = self.examples or some_prompts(captions)
        return training_prompts(config, captions, batch.chance, self.device)

    def gradients(self, player: str, parts: list[tuple[Any, Any]], more: Mapping[str, Any]) -> tuple[Figures, Tensor]:
        """Accumulate the gradients of a player's loss, part by part; returns figures of the batch, and its loss."""
        sizes, seen, updater = [len(classes) for _, classes in parts], [], self.updaters[player]
        losses: list[Tensor] = []
        with autocast(self.device, self.dtype):  # once: weights are cast for the first part and kept
            for number, (inputs, classes) in enumerate(parts, 1):
                with gradients_at_the_end(self.wrapped, number == len(parts)):
                    loss, figures = self.loss(self.wrapped, inputs, classes, player, more)
                    share = loss * (len(classes) / sum(sizes))
                    updater.backward(share)
                seen.append(figures)
                losses.append(share.detach())
        if len(self.updaters) > 1:
            average_gradients(updater.model)
        return (seen[0] if len(seen) == 1 else mean_figures(seen, sizes)), torch.stack(losses).sum()

    def loss(
        self, model: nn.Module, inputs: Any, classes: Any, player: str, more: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Figures]:
        """What a player minimises on tokens or images, and figures; `more` goes to the family's loss as well."""
        config = self.config
        shared = {"tokenizer": self.tokenizer, "config": config.model, "label_smoothing": config.label_smoothing}
        if config.scale_weights:
            shared["scale_weights"] = config.scale_weights
        return self.family.loss(model, inputs, classes, player=player, **shared, **(more or {}))

    def step_line(self, figures: dict[str, Any]) -> str:
        return prediction_line(figures)

    def averaged(self) -> nn.Module | None:
        if not self.sharded:
            return self.average.module
        state = whole_state(self.average)
        return module_from_state(self.family.network, self.config.model, state) if self.processes.is_main else None

    def measure(self, model: nn.Module, done: int, announce: Announce) -> tuple[dict[str, Any], str]:
        def figures_of(inputs: Any, classes: Any) -> Figures:
            known = inputs.to(self.device), classes.to(self.device)
            with autocast(self.device, self.dtype):
                figures = [self.loss(model, *known, player)[1] for player in self.updaters]
            return {name: value for one in figures for name, value in one.items()}

        assert self.heldout is not None
        model.eval()
        chosen = spread(len(self.heldout), self.config.heldout_images)
        texts = {"captions": self.config.condition == "text"}
        batches = heldout_batches(self.heldout, self.tokenizer, self.size, chosen, self.dtype, **texts)
        advance = announce("measuring", len(chosen))
        figures = measure_transformer(figures_of, batches, self.config, self.places, advance=advance)
        line = heldout_line(figures, self.config.condition)
        if self.family.truncates and len(chosen) >= FEWEST:
            seen, said = self.watch_variety(model, done)
            return figures | seen, f"{line}  {said}"
        return figures, line

    def watch_variety(self, model: nn.Module, done: int) -> tuple[dict[str, float], str]:
        """Recall and coverage of the model's images against held-out ones, and a line; warns of mode collapse."""
        if self.watch is None:
            assert self.heldout is not None
            some = spread(len(self.heldout), IMAGES)
            parts = list(heldout_batches(self.heldout, None, self.size, some, self.dtype))
            labels = torch.cat([labels for _, labels in parts])
            known = labels if self.places is None else torch.where(labels < 0, labels, self.places[labels])
            self.watch = Watch(torch.cat([images for images, _ in parts]), known)
        figures = self.watch.figures(self.pipeline_of(model, done))
        warn_of_collapse(figures, done, self.config.steps)
        return figures, self.watch.line(figures)

    def pipeline_of(self, model: nn.Module, done: int) -> VARPipeline:
        """What the run has learned so far, with the generation defaults of its settings."""
        names = ("guidance", "top_k", "top_p", "refine_steps")
        sampling: dict[str, Any] = {name: getattr(self.config, name) for name in names}
        sampling |= {"class_names": self.names, "prompts": self.examples or None}
        about = ModelConfig(kind=self.command, trained_steps=done, **sampling)
        return VARPipeline(self.tokenizer or PixelTokenizer(self.size), model.eval(), about)

    def export(self, model: nn.Module, done: int, journal: Journal, stop: Callable[[], bool]) -> None:
        """Write RUN/model, then a grid of samples: 16 images of up to 16 classes; no grid when `stop` says so."""
        model = self.family.exported(model)
        pipeline, dtype = self.pipeline_of(model, done), STORED_DTYPES[self.config.export]
        about = pipeline.config
        save_model(self.run.path / "model", about, tokenizer=self.tokenizer, transformer=model, dtype=dtype)
        wanted: Any = self.examples or range(min(16, len(self.names))) or None
        drawn = pipeline.generate_batches(wanted, seeds=range(SAMPLES))
        images: list[Image.Image] = []
        advance = journal.progress.aside("drawing samples", SAMPLES)
        while len(images) < SAMPLES and not stop():
            images += next(drawn).images
            advance(len(images))
        if len(images) == SAMPLES:
            save_image(grid(images), self.run.path / "samples" / f"{done:08d}.png")


def require_weights(weights: Sequence[float], family: Family, architecture: Any) -> None:
    """Raises ValueError unless there are no weights, or one for each scale of a family that weighs them."""
    if weights and not family.weighs_scales:
        raise ValueError(f"scale_weights are not for {family.title}; leave them out")
    if weights and len(weights) != len(architecture.scales):
        raise ValueError(
            f"scale_weights needs a weight for each of {len(architecture.scales)} scales, got {len(weights)}"
        )


def require_trainable(config: TransformerTraining, family: Family) -> None:
    """Raises ValueError for settings that the family has not."""
    if family.penalises_gradients and config.compile:
        raise ValueError(f"compile is not for {family.title}, whose penalties need second derivatives; leave it out")
    if family.penalises_gradients and config.precision == "fp16":
        raise ValueError(f"precision fp16 is not for {family.title}, whose penalties underflow in it; use bf16 or fp32")
    if not family.guides and config.guidance:
        raise ValueError(f"guidance is not for {family.title}; leave it out")


def compile_units(units: Sequence[nn.Module]) -> None:
    """Compile parts of a model that are alike, and so share their graphs, for batches of one shape.

    The forward alone: around it are the hooks of sharded training.
    """
    for unit in units:
        unit.forward = torch.compile(unit.forward, dynamic=False)
