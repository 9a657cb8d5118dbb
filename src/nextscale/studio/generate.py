"""The Generate tab: images appear scale by scale."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.pictures import grid
from nextscale.pipeline import VARPipeline
from nextscale.results import GenerationStep
from nextscale.studio.components import shown_gallery, shown_picture
from nextscale.studio.desk import Desk, seed_of
from nextscale.studio.events import QUIET, PageJobs
from nextscale.studio.jobs import Job, Update, Visitor
from nextscale.studio.pictures import FINISHED, STRIP_COLUMNS, STRIP_ROWS, fitted, paced, strip

MOST_IMAGES = 16
CHOOSE = "Choose an image above to edit it"


@dataclass(frozen=True)
class Frame:
    """The page while images are made, and when they are done."""

    status: str
    picture: Image.Image | None = None
    strip: Image.Image | None = None
    files: list[tuple[str, str]] | None = None
    "Finished images for the gallery: file and caption."


def generate_live(desk: Desk, name: str, count: int, seed: int, **settings: Any) -> Iterator[Frame]:
    """A frame after every scale, with pictures where there is time, and one with the files.

    A last frame shows the scales for which there was no time before. `settings` are those of `SamplingConfig`. Raises
    ValueError for those out of range.
    """
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
            yield Frame(status, fitted(grid(last)), strip([one for one in images if one]))
        else:
            yield Frame(status)
    finished = images[-1] = images[-1] or steps[-1].preview()
    seconds = time.monotonic() - began
    facts = {"class": label} | {setting: getattr(sampling, setting) for setting in settings}
    files = [
        (desk.saved(image, facts | {"seed": one}), f"{name}, seed {one}")
        for image, one in zip(finished, seeds, strict=True)
    ]
    plural = "s" if len(files) > 1 else ""
    status = f"{len(files)} image{plural} of {name}, seed {seed}, in {seconds:.2f} s"
    yield Frame(status, fitted(grid(finished), FINISHED), strip([one for one in images if one]), files)
    if len(steps) <= STRIP_COLUMNS and None in images:
        whole = [one or step.preview()[:STRIP_ROWS] for one, step in zip(images, steps, strict=True)]
        yield Frame(status, strip=strip(whole))


def step_line(pipeline: VARPipeline, number: int) -> str:
    """Where a generation stands after a step, from 0: a scale, or a step of another kind of model."""
    if not pipeline.family.editable:
        return f"Step {number + 1}"
    height, width = pipeline.schedule[number]
    return f"Scale {number + 1} of {len(pipeline.schedule)}: {height} x {width} tokens"


def chosen_of(made: list[tuple[str, str]], value: Any) -> tuple[str, str] | None:
    """The image of a gallery that was clicked, file and caption: by its path, for the gallery may have grown."""
    image = value.get("image") if isinstance(value, dict) else None
    place = Path(str((image or {}).get("path"))).parts[-2:]  # a folder of its own, and the name
    return next((one for one in made if Path(one[0]).parts[-2:] == place), None)


def generate_tab(page: PageJobs) -> tuple[gr.Button, gr.State]:
    """Controls at the left, the picture at the right; returns the button that takes the chosen image, and that."""
    desk = page.desk
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            controls, sampling = generate_controls(desk)
            seed = controls[2]
            with gr.Row():
                start = gr.Button("Generate", variant="primary", elem_id="generate-start")
                stop = gr.Button("Stop", elem_id="generate-stop", interactive=False)
        with gr.Column(scale=2, min_width=300):
            picture = shown_picture("Images", elem_id="generate-picture")
            status = gr.Markdown("Ready.", elem_id="generate-status")
            scales = shown_picture("Scale by scale", wide=True, elem_id="generate-strip")
    title, buttons = "Made with this browser; downloads hold their settings", ["download", "fullscreen"]
    gallery = shown_gallery(title, columns=8, elem_id="generate-gallery", buttons=buttons)
    take = gr.Button(CHOOSE, elem_id="take", interactive=False)
    chosen = gr.State(None)

    def shown_of(visitor: Visitor) -> Update:
        return {gallery: gr.Gallery(value=[*visitor.made], selected_index=None)} if visitor.made else {}

    def work(job: Job, name: str, count: float, typed: float, fresh: bool, *values: Any) -> Iterator[Update]:
        used = seed_of(typed, fresh)
        settings = dict(zip(sampling, values, strict=True))
        for setting in {"temperatures", "spatial_guidance"} & set(settings):
            settings[setting] = listed(settings[setting])
        yield {seed: used}
        for frame in generate_live(desk, name, int(count), used, **settings):
            update: Update = {status: frame.status}
            if frame.picture:
                update[picture] = job.shown(frame.picture)
            if frame.strip:
                update[scales] = job.shown(frame.strip)
            if frame.files:
                job.visitor.made[:0] = frame.files
                update |= shown_of(job.visitor)
            yield update

    inputs = [*controls, *sampling.values()]
    page.job("Generate", start, stop, status, work, inputs, [picture, scales, gallery, seed], shown_of)

    def choose(token: str | None, event: gr.SelectData) -> tuple[Any, gr.Button]:
        found = chosen_of(desk.visitors.visitor(token).made, event.value)
        return found, gr.Button(f"Edit {found[1]}" if found else CHOOSE, interactive=found is not None)

    gallery.select(choose, page.token, [chosen, take], **QUIET)
    return take, chosen


def generate_controls(desk: Desk) -> tuple[list[Any], dict[str, Any]]:
    """Class, number, seed, whether to draw one; and settings of `SamplingConfig` by name."""
    name = gr.Dropdown(desk.class_choices, value=desk.class_choices[0], label="Class", info="Type to search.")
    count = gr.Slider(1, MOST_IMAGES, value=4, step=1, label="Images")
    with gr.Row():
        seed = gr.Number(0, label="Seed", min_width=120)
        fresh = gr.Checkbox(False, label="New seed each time", min_width=120)
    return [name, count, seed, fresh], sampling_controls(desk.pipeline)


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


def listed(text: str | None) -> list[str]:
    """Numbers with commas, one by one, still as text."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
