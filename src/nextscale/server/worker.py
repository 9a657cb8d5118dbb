"""Jobs of one key on a pipeline, all images of a group at once.

Shapes: B jobs, C latent channels, (h, w) latent grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from nextscale.editing.apply import EditStep
from nextscale.families.table import family_of
from nextscale.nn.packed import count_parameters
from nextscale.pictures import to_images
from nextscale.pipeline import VARPipeline
from nextscale.results import GenerationStep
from nextscale.runtime import image_generator
from nextscale.server.jobs import Edit, Job, ModelCard, Stage

Item = TypeVar("Item")
Wanted = Callable[[int], bool]
"""Whether a row of the group is still asked for."""
Step = GenerationStep | EditStep
Work = tuple[Iterable[Step], list[int | None], Callable[[Any, int], Image.Image]]
"""Steps, the classes of the rows, and what makes a row's image of a step."""


def card_of(pipeline: VARPipeline, name: str) -> ModelCard:
    """What a client may know of a model."""
    config, kind = pipeline.transformer.config, family_of(pipeline.transformer.config)
    parts = (pipeline.tokenizer, pipeline.transformer)
    return ModelCard(
        name=name,
        title=kind.title,
        class_names=pipeline.class_names,
        image_size=pipeline.tokenizer.config.image_size,
        scales=len(config.scales) if kind.kind == "var" else 0,
        defaults=pipeline.sampling(),
        precision=pipeline.precision,
        parameters=sum(map(count_parameters, parts)),
        edits=kind.kind == "var",
    )


@torch.no_grad()
def run_jobs(pipeline: VARPipeline, jobs: Sequence[Job], wanted: Wanted) -> Iterator[list[Stage | None]]:
    """A stage or None per job, scale after scale; ends early when no job is wanted any more.

    All jobs have the first one's key. Images are finished one by one, so that none depends on the others.
    """
    edit = jobs[0].edit
    steps, labels, picture = edited(pipeline, jobs[0], edit) if edit is not None else generated(pipeline, jobs)
    for step, final in with_last(steps):
        stages: list[Stage | None] = [None] * len(jobs)
        for row, job in enumerate(jobs):
            if wanted(row) and (final or (step.scale in job.previews and is_first(step))):
                stages[row] = Stage(step.scale, np.asarray(picture(step, row)), final, labels[row], len(jobs))
        yield stages
        if not any(wanted(row) for row in range(len(jobs))):
            return


def is_first(step: Step) -> bool:
    """Whether a step is of the first region, or of the whole image: previews are as many as there are scales."""
    return isinstance(step, GenerationStep) or step.region == 0


def generated(pipeline: VARPipeline, jobs: Sequence[Job]) -> Work:
    """New images."""
    labels = [job.label if isinstance(job.label, int) else None for job in jobs]
    steps = pipeline.generate_steps(labels, seeds=[job.seed for job in jobs], config=jobs[0].sampling)

    def picture(step: GenerationStep, row: int) -> Image.Image:
        features = step.accumulated[row : row + 1].to(pipeline.device)
        return to_images(pipeline.tokenizer.decode_features(features))[0]

    return steps, labels, picture


def edited(pipeline: VARPipeline, job: Job, edit: Edit) -> Work:
    """An image of which a part is made anew."""
    editor = pipeline.editor(Image.fromarray(edit.image), edit.mask, editing=edit.config)
    ids = torch.tensor(pipeline.edit_classes(job.label, *editor.known_part())[:1], device=pipeline.device)
    steps = editor.steps(ids, [image_generator(job.seed)], job.sampling, soften=job.soften)
    return steps, [pipeline.class_or_none(int(ids[0]))], lambda step, row: step.images()[row]


def with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last."""
    iterator = iter(items)
    current = next(iterator)
    for following in iterator:
        yield current, False
        current = following
    yield current, True
