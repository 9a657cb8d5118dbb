"""Neon: away from what a model learns of its own samples (Alemohammad et al., arXiv 2510.03597).

A sampler prefers what is likely, so a model that is tuned on its own samples narrows; the step the other way widens
it. Three phases, each of which continues where it was stopped:

    OUT/config.json, run.json   settings; the identities of model and data
    OUT/tokens/                 samples of the model, as a token cache
    OUT/tuning/                 the run that tunes a copy on them, and its snapshots
    OUT/choosing/               figures of each weight and length, over guidance
    OUT/neon.json, neon.png     the whole table
    OUT/model/                  the best of it, an ordinary model
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nextscale.catalogue import find_model
from nextscale.checkpoint import CONFIG, RUN, ModelConfig, fingerprint, save_model
from nextscale.config import to_dict
from nextscale.data.loader import NO_CLASS
from nextscale.data.source import ImageSource
from nextscale.data.tokens import TokenCacheConfig, claim, finish, shard_folder, write_shard
from nextscale.evaluation.features import identity
from nextscale.evaluation.generation import open_evaluation
from nextscale.families import WITHOUT_TRAINING
from nextscale.files import unwritable, write_json
from nextscale.pipeline import VARPipeline
from nextscale.progress import Advance, Stages
from nextscale.runtime import launched_processes
from nextscale.sampling.step import pyramid_of
from nextscale.training.config import OptimiserConfig, TransformerTraining, training_settings
from nextscale.training.exactness import deterministic
from nextscale.training.loop import Journal, train
from nextscale.training.neon_choice import choose, evaluation_of, snapshot_folder
from nextscale.training.neon_config import NeonTraining
from nextscale.training.run import identity_of, read_record, require_same_settings
from nextscale.training.stage2 import TransformerStage

logger = logging.getLogger("nextscale.training")

SHARD = 512
"""Samples that are written at once: what is lost at most where the drawing is stopped."""
MASKED = 0.5
"""Share of the samples whose last map a model that is drawn in several passes knows in part."""


def train_neon(config: NeonTraining, *, resume: bool = False) -> dict[str, Any]:
    """Draw samples, tune a copy on them, choose how far to go the other way; writes OUT/model and OUT/neon.json.

    Returns what neon.json holds. Raises ValueError for a model without tokens, for settings or data that cannot be
    used and for a folder in use, TrainingDiverged, and KeyboardInterrupt after a signal.
    """
    if launched_processes().world > 1:
        raise ValueError("train neon runs in one process; start it without torchrun")
    with deterministic(config.deterministic):
        inputs = inputs_of(config)
        claim_run(config, inputs, resume=resume)
        draw_samples(config)
        tune(config)
        with Stages() as stages:
            return choose(config, stages.start)


def inputs_of(config: NeonTraining) -> dict[str, Any]:
    """Identities of what the run is applied to. Raises ValueError where it cannot be used; writes nothing."""
    stored = find_model(config.model)
    pipeline = VARPipeline(stored.tokenizer(), stored.transformer(), stored.config())
    if not pipeline.family.reads_tokens or not pipeline.family.predicts_tokens:
        raise ValueError(f"model {config.model}: draws no tokens to tune on; it is {pipeline.family.title}")
    if pipeline.family.kind in WITHOUT_TRAINING:
        raise ValueError(f"model {config.model}: is {pipeline.family.title}; tune each by itself")
    if pipeline.reads_prompts:
        raise ValueError(f"model {config.model}: draws from prompts; neon draws its samples from classes")
    real = open_evaluation(evaluation_of(config, config.model, config.out)).real
    return {
        "model": identity(pipeline.transformer),
        "tokenizer": identity(pipeline.tokenizer),
        "data": identity_of(real) if isinstance(real, ImageSource) else None,
    }


def claim_run(config: NeonTraining, inputs: dict[str, Any], *, resume: bool) -> None:
    """Start in an empty folder, or continue in it. Raises ValueError for another run's, or one of other settings."""
    out = Path(config.out)
    before = read_record(out)
    if before is None and out.is_dir() and any(not file.name.startswith(".partial-") for file in out.iterdir()):
        raise ValueError(f"{out}: holds other files; choose another --out")
    if before is not None:
        if before.command not in ("", "neon") or "tuning_count" not in before.settings:
            raise ValueError(f"{out}: is another run than one of train neon; choose another --out")
        if not resume:
            raise ValueError(f"{out}: holds a run already; add --resume to continue it or choose another --out")
        require_same_settings(out, before, config)
        changed = [name for name, value in before.inputs.items() if inputs.get(name) != value]
        if changed:
            raise ValueError(
                f"{out}: cannot continue: its {changed[0]} is not what it began with; choose another --out"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / CONFIG, to_dict(config))
        write_json(out / RUN, {"command": "neon", "inputs": inputs})
    except OSError as error:
        raise unwritable(out, error) from error


def draw_samples(config: NeonTraining) -> None:
    """Samples with the model's own settings, the classes in turn, as the token cache OUT/tokens."""
    import datasets

    datasets.disable_progress_bars()
    pipeline = VARPipeline.from_pretrained(config.model, device=config.device, dtype=config.precision)
    out, tokenizer, first = Path(config.out) / "tokens", pipeline.tokenizer, config.seed + config.tuning_count
    about = TokenCacheConfig(
        data=config.model,
        tokenizer=fingerprint(tokenizer),
        precision=pipeline.precision,
        scales=tokenizer.config.scales,
        codebook_size=tokenizer.config.codebook_size,
        class_names=pipeline.class_names,
        seed=first,
    )
    if claim(out, about, resume=True):
        return
    logger.info("draws %d samples of %s, guidance %g", config.samples, config.model, pipeline.sampling().guidance)
    with Stages() as stages:
        advance = stages.start("samples", config.samples)
        for number, start in enumerate(range(0, config.samples, SHARD)):
            images = range(start, min(start + SHARD, config.samples))
            if not shard_folder(out, number).exists():
                rows = draw_shard(pipeline, images, first, config.at_once, advance)
                write_shard(shard_folder(out, number), rows, about)
            advance(images.stop)
    finish(out, about)


def draw_shard(
    pipeline: VARPipeline, images: range, first: int, at_once: int, advance: Advance
) -> dict[str, list[Any]]:
    """Columns of a shard: sample i has the class i mod n and the seed `first` + i. Nothing is decoded."""
    count = pipeline.transformer.config.classes
    rows: dict[str, list[Any]] = {"tokens": [], "label": [], "index": list(images)}
    for start in range(images.start, images.stop, at_once):
        batch = range(start, min(start + at_once, images.stop))
        wanted = [i % count if count else None for i in batch]
        classes = torch.tensor(pipeline.class_ids(wanted), device=pipeline.device)
        how: dict[str, Any] = {"seeds": [first + i for i in batch], "config": pipeline.sampling()}
        steps = list(pipeline.family.sample(pipeline.transformer, pipeline.tokenizer, classes, **how))
        rows["tokens"] += list(pyramid_of(steps, pipeline.schedule).packed.cpu().numpy())
        rows["label"] += [NO_CLASS if label is None else label for label in wanted]
        advance(batch.stop)
    return rows


def tune(config: NeonTraining) -> None:
    """Train a copy of the model on its samples, with a snapshot after each length that is tried."""
    if all(snapshot_folder(config, steps).is_dir() for steps in config.tuned_steps):
        return
    stage = SelfTuning(tuning_of(config), resume=True)
    logger.info("tunes a copy of the weights that %s exports; takes it as it is, without an average", config.model)
    train(stage)


def tuning_of(config: NeonTraining) -> TransformerTraining:
    """The run that tunes: the ordinary loss, no averages, and a rate that rises linearly to the last step.

    Nothing pulls weights to 0: what is reversed later is to be the samples' effect alone. A model that may draw its
    last map in several passes is tuned for both ways.
    """
    stored, steps = find_model(config.model), config.tuned_steps
    architecture = stored.transformer().config
    settings = training_settings(stored.config().kind)
    return settings(
        data=str(Path(config.out) / "tokens"),
        out=str(Path(config.out) / "tuning"),
        tokenizer=config.model,
        init_from=config.model,
        model=architecture,
        masked_last=MASKED if getattr(architecture, "refinable", False) else 0.0,
        heldout_share=0.0,
        steps=steps[-1],
        sample_every=steps[0],
        checkpoint_every=steps[0],
        log_every=min(steps[0], 10),
        optimiser=OptimiserConfig(learning_rate=config.learning_rate, warmup=1.0, weight_decay=0.0, ema=0.0),
        **{name: getattr(config, name) for name in ("batch_size", "seed", "precision", "device", "deterministic")},
    )


class SelfTuning(TransformerStage):
    """Stage 2 on a model's own samples, which leaves its weights after each length instead of a model with pictures."""

    title = "tuning"

    def __init__(self, config: TransformerTraining, *, resume: bool) -> None:
        super().__init__(config, resume=resume)
        self.command = "neon"

    def settle_architecture(self) -> tuple[Any, tuple[Any, tuple[str, ...]] | None]:
        """As in stage 2, but classes are the start's by their place: they may have no names, or twice the same."""
        fitted, start = super().settle_architecture()
        return fitted, None if start is None else (start[0], self.names)

    def export(self, model: nn.Module, done: int, journal: Journal, stop: Callable[[], bool]) -> None:
        """Write the weights after `done` steps."""
        about = ModelConfig(kind=self.family.kind, class_names=self.names, trained_steps=done)
        save_model(self.run.path / "snapshots" / f"{done:08d}", about, tokenizer=None, transformer=model)
