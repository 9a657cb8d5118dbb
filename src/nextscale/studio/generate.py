"""The Generate tab: images appear scale by scale."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import torch
from PIL import Image

from nextscale.pictures import grid, to_images
from nextscale.pipeline import VARPipeline
from nextscale.results import Generation, GenerationStep
from nextscale.sampling.rejection import Rejection
from nextscale.studio.components import seed_field, shown_picture, wanted_field
from nextscale.studio.desk import NO_CLASS, Desk, seed_of, settings_in
from nextscale.studio.events import QUIET, PageJobs, errors_as_messages
from nextscale.studio.figures import Stages, strip_of
from nextscale.studio.grids import grid_part
from nextscale.studio.history import History, history_part, keep_made
from nextscale.studio.jobs import Job, Update, Visitor
from nextscale.studio.pictures import FINISHED, STRIP_COLUMNS, fitted, paced
from nextscale.studio.ready import FirstResult

MOST_IMAGES = 16
MOST_CANDIDATES = 16
MOST_SHOWN = 60
"""Characters of a prompt below its image."""
NO_PROMPT = "(no prompt)"
READY_MADE = 4
"""Images that a page shows before anything was asked."""


@dataclass(frozen=True)
class Frame:
    """The page while images are made, and when they are done."""

    status: str
    picture: Image.Image | None = None
    stages: Sequence[Stages] = ()
    "The steps of each image; while they are made, of the first."
    files: list[tuple[str, str]] | None = None
    "Finished images for the gallery: file and caption."


def generate_live(
    desk: Desk, name: str, count: int, seed: int, *, candidates: int = 1, **settings: Any
) -> Iterator[Frame]:
    """A frame after every scale, with pictures where there is time, and one with the files.

    A last frame shows the scales for which there was no time before. Of several `candidates` the likeliest is kept, and
    there is a frame after every image. `settings` are those of `SamplingConfig`. Raises ValueError for those out of
    range.
    """
    if candidates > 1:
        yield from best_live(desk, name, count, seed, candidates, **settings)
        return
    pipeline, label = desk.pipeline, desk.label_of(name)
    sampling = pipeline.sampling(**settings)
    seeds = [seed + number for number in range(count)]
    began = time.monotonic()
    steps: list[GenerationStep] = []
    images: list[list[Image.Image] | None] = []
    for step, shown in paced(pipeline.generate_steps(label, seeds=seeds, config=sampling), desk.previews):
        steps.append(step)
        images.append(step.preview() if shown else None)
        status = step_line(pipeline, step.scale)
        if last := images[-1]:
            yield Frame(status, fitted(grid(last)), stages_of(pipeline, images)[:1])
        else:
            yield Frame(status)
    finished = images[-1] = images[-1] or steps[-1].preview()
    facts = {setting: getattr(sampling, setting) for setting in settings}
    frame = finished_frame(desk, name, seed, began, facts, finished, seeds, stages_of(pipeline, images))
    yield frame
    if len(steps) <= STRIP_COLUMNS and None in images:
        whole: list[Any] = [one or step.preview() for one, step in zip(images, steps, strict=True)]
        yield Frame(frame.status, stages=stages_of(pipeline, whole))


def best_live(desk: Desk, name: str, count: int, seed: int, candidates: int, **settings: Any) -> Iterator[Frame]:
    """The likeliest of several candidates of each image; their seeds are those that draw them alone."""
    pipeline, label, began = desk.pipeline, desk.label_of(name), time.monotonic()
    sampling, rejection = pipeline.sampling(**settings), Rejection(candidates=candidates)
    yield Frame(f"Drawing {candidates} candidates of each image ...")
    results: list[Generation] = []
    for number in range(count):
        results.append(pipeline.generate(label, seeds=[seed + number], config=sampling, rejection=rejection))
        stages = stages_of(pipeline, decoded(pipeline, results[0]))
        images = [result.images[0] for result in results]
        yield Frame(f"Image {number + 1} of {count}, best of {candidates}", fitted(grid(images)), stages)
    facts = {setting: getattr(sampling, setting) for setting in settings} | {"best_of": candidates}
    stages = [stages_of(pipeline, decoded(pipeline, result))[0] for result in results]
    images, seeds = [result.images[0] for result in results], [result.seeds[0] for result in results]
    yield finished_frame(desk, name, seed, began, facts, images, seeds, stages)


@torch.no_grad()
def decoded(pipeline: VARPipeline, result: Generation) -> list[list[Image.Image]]:
    """The images of a result after each scale."""
    states = pipeline.tokenizer.quantizer.states(result.tokens.to(pipeline.device))
    return [to_images(pipeline.tokenizer.decode_each(state.accumulated)) for state in states]


def finished_frame(
    desk: Desk,
    name: str,
    seed: int,
    began: float,
    facts: dict[str, Any],
    images: list[Image.Image],
    seeds: list[int],
    stages: Sequence[Stages],
) -> Frame:
    """The frame of images that are done, which become files."""
    seconds, shows = time.monotonic() - began, shortened(name or NO_PROMPT)
    facts = desk.named(desk.label_of(name)) | facts
    files = [
        (desk.saved(image, facts | {"seed": one}), f"{shows}, seed {one}")
        for image, one in zip(images, seeds, strict=True)
    ]
    plural = "s" if len(files) > 1 else ""
    status = f"{len(files)} image{plural} of {shows}, seed {seed}, in {seconds:.2f} s"
    return Frame(status, fitted(grid(images), FINISHED), stages, files)


def stages_of(pipeline: VARPipeline, images: Sequence[list[Image.Image] | None]) -> list[Stages]:
    """The steps of each image of those that were seen; all scales of a model that has them, else some of the steps."""
    count = len(next((one for one in reversed(images) if one), ()))
    if pipeline.family.editable:
        padded = [*images, *[None] * (len(pipeline.schedule) - len(images))]
        labels = [f"{height} x {width}" for height, width in pipeline.schedule]
        shown = list(zip(labels, padded, strict=True))
    else:
        seen = [(f"step {number}", one) for number, one in enumerate(images, start=1) if one]
        columns = min(len(seen), STRIP_COLUMNS)
        shown = [seen[(number + 1) * len(seen) // columns - 1] for number in range(columns)]
    return [[(label, one[number] if one else None) for label, one in shown] for number in range(count)]


def step_line(pipeline: VARPipeline, number: int) -> str:
    """Where a generation stands after a step, from 0: a scale, or a step of another kind of model."""
    if not pipeline.family.editable:
        return f"Step {number + 1}"
    height, width = pipeline.schedule[number]
    return f"Scale {number + 1} of {len(pipeline.schedule)}: {height} x {width} tokens"


class ReadyMade(FirstResult[Frame]):
    """Images that a page shows before anything was asked."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk, lambda: first_images(desk), desk.pipeline)

    def frame(self) -> Frame | None:
        """None for a large model on a CPU, and where the model has no time."""
        return self.result()

    @property
    def files(self) -> list[tuple[str, str]]:
        """Files and captions of the images, once there is a frame."""
        return (self.made and self.made.files) or []


def first_images(desk: Desk) -> Frame:
    """Images of the first class, or of the first example; the status is the caption of the first one."""
    pipeline = desk.pipeline
    name = next(iter(pipeline.config.prompts or ()), "") if pipeline.reads_prompts else pipeline.class_names[0]
    steps = list(pipeline.generate_steps(name, seeds=range(READY_MADE)))
    images, facts = [step.preview() for step in steps], desk.named(name)
    files = [
        (desk.saved(image, facts | {"seed": seed}), f"{shortened(name or NO_PROMPT)}, seed {seed}")
        for seed, image in enumerate(images[-1])
    ]
    return Frame(files[0][1], fitted(grid(images[-1])), stages_of(pipeline, images), files)


@dataclass(frozen=True)
class Controls:
    """What is asked for."""

    name: Any
    count: gr.Slider
    seed: gr.Number
    lock: gr.Checkbox
    sampling: dict[str, Any]
    "Settings of `SamplingConfig` by name."
    candidates: gr.Slider | None = field(default=None)

    @property
    def parts(self) -> list[Any]:
        return [
            self.name, self.count, self.seed, self.lock, *self.sampling.values(),
            *([self.candidates] if self.candidates else []),
        ]  # fmt: skip

    def settings(self, values: Sequence[Any]) -> dict[str, Any]:
        """Settings by name, of the values that follow the lock."""
        found: dict[str, Any] = dict(zip(self.sampling, values[: len(self.sampling)], strict=True))
        for setting in {"temperatures", "spatial_guidance"} & set(found):
            found[setting] = listed(found[setting])
        return found | ({"candidates": int(values[-1])} if self.candidates else {})

    def reused(self, desk: Desk, facts: dict[str, Any]) -> Update:
        """The page with the settings that an image holds. Raises ValueError for a class the model does not have."""
        update: Update = {self.lock: True}
        kind = "prompt" if desk.pipeline.reads_prompts else "class"
        if kind in facts:
            name = facts[kind] or ("" if kind == "prompt" else NO_CLASS)
            if kind == "class" and name not in desk.class_choices:
                raise ValueError(f"the image is of the class {name}, which {desk.model} does not have")
            update[self.name] = name
        if "seed" in facts:
            update[self.seed] = seed_of(facts["seed"], False)
        for setting in set(self.sampling) & set(facts):
            value = facts[setting]
            update[self.sampling[setting]] = ",".join(map(str, value)) if isinstance(value, list) else value
        return update | ({self.candidates: 1} if self.candidates else {})


def generate_tab(page: PageJobs, ready_made: ReadyMade) -> History:
    """Controls at the left, the picture at the right, below what was made; returns the latter."""
    desk = page.desk
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            controls = generate_controls(desk)
            with gr.Row():
                start = gr.Button("Generate", variant="primary", elem_id="generate-start")
                stop = gr.Button("Stop", elem_id="generate-stop", interactive=False)
            dropped = settings_input()
        with gr.Column(scale=2, min_width=300):
            picture = shown_picture("Images", elem_id="generate-picture")
            status = gr.Markdown("Ready.", elem_id="generate-status")
            gr.Markdown("Scale by scale", elem_classes="title")
            scales = gr.HTML("", elem_id="generate-strip", padding=False)
    history = history_part(page, scales)
    grid_part(page, history)

    def shown_of(visitor: Visitor) -> Update:
        if "Generate" not in visitor.jobs and (frame := ready_made.frame()):
            return history.shown(visitor) | {picture: frame.picture, scales: strip_of(frame.status, frame.stages[0])}
        return history.shown(visitor)

    def work(job: Job, name: str, count: float, typed: float, lock: bool, *values: Any) -> Iterator[Update]:
        used, files = seed_of(typed, not lock), []
        yield {controls.seed: used}
        for frame in generate_live(desk, name, int(count), used, **controls.settings(values)):
            update: Update = {status: frame.status}
            if frame.picture:
                update[picture] = job.shown(frame.picture)
            if frame.files:
                files = frame.files
                job.visitor.made[:0] = files
                update |= history.shown(job.visitor)
            if frame.stages:
                keep_made(files, frame.stages)
                caption = files[0][1] if files else f"{shortened(name or NO_PROMPT)}, seed {used}"
                update[scales] = strip_of(caption, frame.stages[0])
            yield update

    outputs = [picture, scales, *history.parts, controls.seed]
    page.job("Generate", start, stop, status, work, controls.parts, outputs, shown_of)
    wire_reuse(page, controls, history, dropped)
    return history


def wire_reuse(page: PageJobs, controls: Controls, history: History, dropped: gr.File) -> None:
    """Settings come back from the chosen image, and from a picture that is dropped."""

    def reuse(path: str | None) -> Update:
        if path is None:
            return {controls.lock: gr.skip()}
        facts = settings_in(path)
        update = controls.reused(page.desk, facts)
        if (model := facts.get("model")) != page.desk.model:
            gr.Info(f"The image was made by another model ({str(model)[:MOST_SHOWN]}): this one draws it differently.")
        return update

    history.reuse.click(errors_as_messages(lambda chosen: reuse(chosen[0])), history.chosen, controls.parts, **QUIET)
    dropped.upload(errors_as_messages(reuse), dropped, controls.parts, **QUIET)


def settings_input() -> gr.File:
    """A place for a picture of ours, whose settings are read back."""
    with gr.Accordion("Settings from a picture", open=False):
        return gr.File(label="A PNG that was downloaded here", file_types=[".png"], height=120, elem_id="settings-file")


def generate_controls(desk: Desk) -> Controls:
    """Class or prompt, number, seed and its lock, settings, and candidates of a model that can judge them."""
    name = wanted_field(desk)
    count = gr.Slider(1, MOST_IMAGES, value=4, step=1, label="Images")
    seed, lock = seed_field("generate-lock")
    sampling = sampling_controls(desk.pipeline)
    if not desk.pipeline.family.editable:
        return Controls(name, count, seed, lock, sampling)
    hint = "Drawn of each image; the likeliest is kept."
    candidates = gr.Slider(1, MOST_CANDIDATES, value=1, step=1, label="Candidates", info=hint)
    return Controls(name, count, seed, lock, sampling, candidates)


def sampling_controls(pipeline: VARPipeline) -> dict[str, Any]:
    """Settings of `SamplingConfig` by name; those per scale only for models that have them."""
    defaults, last = pipeline.sampling(), len(pipeline.schedule)
    codes = getattr(pipeline.transformer.config, "codebook_size", defaults.top_k)  # models of pixels have none
    shown: dict[str, Any] = {}
    if pipeline.family.truncates:
        hint = "Lower: better images, less variety; at 0 all of a class are one."
        shown["truncation"] = gr.Slider(0, 1.5, value=defaults.truncation, step=0.05, label="Truncation", info=hint)
        return shown
    shown["guidance"] = gr.Slider(0, 10, value=defaults.guidance, step=0.1, label="Guidance", info="0 is off.")
    with gr.Accordion("Sampling", open=False):
        hint = "Likeliest tokens kept; 0 is off."
        shown["top_k"] = gr.Slider(0, codes, value=defaults.top_k, step=1, precision=0, label="Top-k", info=hint)
        hint = "Probability kept; 0 is off."
        shown["top_p"] = gr.Slider(0, 1, value=defaults.top_p, step=0.01, label="Top-p", info=hint)
        if pipeline.family.editable:
            hint = "From the first; 0 is all. Fewer are faster."
            shown["guided_scales"] = gr.Slider(0, last, step=1, precision=0, label="Guided scales", info=hint)
            hint = "Of each scale, such as 1.1,1,0.9; the last holds for later ones."
            shown["temperatures"] = gr.Textbox(label="Temperatures", placeholder="1", info=hint)
            hint = "Away from what the scale before says, such as 0.2."
            shown["spatial_guidance"] = gr.Textbox(
                ",".join(map(str, defaults.spatial_guidance)), label="Spatial guidance", placeholder="0", info=hint
            )
        if getattr(pipeline.transformer.config, "refinable", False):
            hint, value = "1 draws it at once.", defaults.refine_steps
            shown["refine_steps"] = gr.Slider(
                1, 8, value=value, step=1, precision=0, label="Passes of the last map", info=hint
            )
    return shown


def shortened(text: str) -> str:
    """A class or prompt on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}..."


def listed(text: str | None) -> list[str]:
    """Numbers with commas, one by one, still as text."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
