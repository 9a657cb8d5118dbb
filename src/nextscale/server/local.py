"""A pipeline of this process as a backend: it makes the images of a group of jobs all at once.

Shapes: B jobs, C latent channels, (h, w) latent grid.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import chain, pairwise

import numpy as np
import torch
from PIL import Image

from nextscale.editing.apply import EditStep
from nextscale.nn.packed import count_parameters
from nextscale.pictures import to_images
from nextscale.pipeline import VARPipeline
from nextscale.results import GenerationStep
from nextscale.sampling.noise import image_seeds
from nextscale.server.jobs import Edit, Job, ModelCard, Stage
from nextscale.server.problems import on_purpose
from nextscale.server.queues import Batcher

Step = GenerationStep | EditStep


DEVICE_LOCKS: dict[torch.device, threading.Lock] = {}
"""Models on one device take turns, group by group: side by side, each would be slower and take its memory at once."""


class LocalBackend:
    """A pipeline and the queue in front of it."""

    def __init__(self, pipeline: VARPipeline, name: str, *, batch_size: int = 0) -> None:
        """`batch_size` images are worked on at once; 0 takes the pipeline's default."""
        self.known = card_of(pipeline, name)
        self.pipeline = pipeline
        self.turn = DEVICE_LOCKS.setdefault(pipeline.device, threading.Lock())
        self.batcher = Batcher(self.run, most=batch_size or pipeline.default_batch_size)

    def run(self, jobs: Sequence[Job], wanted: Callable[[int], bool]) -> Iterator[list[Stage | None]]:
        """`run_jobs` when it is this model's turn."""
        with self.turn:
            yield from run_jobs(self.pipeline, jobs, wanted)

    async def card(self) -> ModelCard:
        return self.known

    async def make(self, job: Job) -> AsyncIterator[Stage]:
        """The stages of a job. A ValueError of ours is about the job; a library's is a fault: RuntimeError."""
        try:
            async for stage in self.batcher.stream(job):
                yield stage
        except ValueError as error:
            if on_purpose(error):
                raise
            raise RuntimeError(f"a job failed: {error}") from error


def card_of(pipeline: VARPipeline, name: str) -> ModelCard:
    """What a client may know of a model."""
    family = pipeline.family
    return ModelCard(
        name=name,
        title=family.title,
        class_names=pipeline.class_names,
        image_size=pipeline.tokenizer.config.image_size,
        scales=len(pipeline.schedule) if family.editable else 0,
        defaults=pipeline.sampling(),
        precision=pipeline.precision,
        parameters=count_parameters(pipeline.tokenizer) + pipeline.family.parameters(pipeline.transformer),
        edits=family.editable,
        guides=family.guides,
        truncates=family.truncates,
        refinable=getattr(pipeline.transformer.config, "refinable", False),
    )


@torch.no_grad()
def run_jobs(pipeline: VARPipeline, jobs: Sequence[Job], wanted: Callable[[int], bool]) -> Iterator[list[Stage | None]]:
    """A stage or None per job, scale after scale; ends early when no job is wanted any more.

    All jobs have the same key.
    """
    steps, labels = generated(pipeline, jobs) if jobs[0].edit is None else edited(pipeline, jobs[0], jobs[0].edit)
    for step, following in pairwise(chain(steps, [None])):
        assert step is not None
        final = following is None
        shown = [final or (step.scale in job.previews and is_first(step)) for job in jobs]
        rows = [row for row in range(len(jobs)) if shown[row] and wanted(row)]
        stages: list[Stage | None] = [None] * len(jobs)
        for row, image in zip(rows, pictures(step, rows), strict=True):
            stages[row] = Stage(step.scale, np.asarray(image), final, labels[row], len(jobs))
        yield stages
        if not any(wanted(row) for row in range(len(jobs))):
            return


def generated(pipeline: VARPipeline, jobs: Sequence[Job]) -> tuple[Iterator[Step], list[int | None]]:
    """The steps of new images, and their classes."""
    labels = [job.label if isinstance(job.label, int) else None for job in jobs]
    return pipeline.generate_steps(labels, seeds=[job.seed for job in jobs], config=jobs[0].sampling), labels


def edited(pipeline: VARPipeline, job: Job, edit: Edit) -> tuple[Iterator[Step], list[int | None]]:
    """The steps of an image of which a part is made anew, and its class."""
    editor = pipeline.editor(Image.fromarray(edit.image), edit.mask, editing=edit.config)
    ids = torch.tensor(pipeline.edit_classes(job.label, *editor.known_part())[:1], device=pipeline.device)
    seeds = image_seeds([job.seed], pipeline.device)
    steps = editor.steps(ids, seeds, job.sampling, soften=job.soften)
    return steps, [pipeline.class_or_none(int(ids[0]))]


def is_first(step: Step) -> bool:
    """Whether a step is of the only or first region: there is one preview per scale, however many regions there are."""
    return isinstance(step, GenerationStep) or step.region == 0


def pictures(step: Step, rows: Sequence[int]) -> list[Image.Image]:
    """The images of some rows after a step."""
    if not rows:
        return []
    if isinstance(step, EditStep):
        images = step.images()
        return [images[row] for row in rows]
    return to_images(step.tokenizer.decode_each(step.accumulated[list(rows)]))
