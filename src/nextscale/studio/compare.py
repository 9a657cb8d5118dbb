"""The Compare tab: two models fill an image side by side, each against its own clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import torch
from PIL import Image

from nextscale.bench.machine import now
from nextscale.pipeline import VARPipeline
from nextscale.results import GenerationStep
from nextscale.studio.components import shown_picture
from nextscale.studio.desk import Desk, seed_of
from nextscale.studio.events import PageJobs
from nextscale.studio.jobs import Job, Update
from nextscale.studio.pictures import fitted

FRAME = 0.02
"""Seconds of a model's own clock between two of its pictures, at least."""


@dataclass
class Racer:
    """A model at work: its steps, and the time they have taken so far."""

    title: str
    steps: Iterator[GenerationStep]
    each: int
    "Passes of the transformer in one of these steps."
    device: torch.device
    seconds: float = 0.0
    taken: int = 0
    done: bool = False
    last: GenerationStep | None = field(default=None, repr=False)

    def advance(self) -> None:
        """One step, timed."""
        began = now(self.device)
        step = next(self.steps, None)
        self.seconds += now(self.device) - began
        if step is None:
            self.done = True
        else:
            self.last, self.taken = step, self.taken + self.each

    @property
    def clock(self) -> str:
        state = "finished" if self.done else "at work"
        return f"{self.taken} steps, {1000 * self.seconds:.0f} ms, {state}"


def title_of(pipeline: VARPipeline) -> str:
    """Kind and size of a model: size decides the time of a step."""
    return f"{pipeline.family.title}, {pipeline.family.parameters(pipeline.transformer) / 1e6:.2g}M parameters"


def passes_of_a_step(pipeline: VARPipeline) -> int:
    """Passes of the transformer in one step that is shown: a row of tokens where they are drawn one by one."""
    config, family = pipeline.transformer.config, pipeline.family
    for stack in family.stacks(config, steps=pipeline.sampling().steps)[:1]:
        return max(1, stack.times * len(stack.sequence) // family.yields(config))
    return 1


def race(pipelines: list[VARPipeline], name: Any, seed: int) -> Iterator[tuple[list[Racer], int]]:
    """The model whose clock is behind takes the next step; yields after each, with the number of that model.

    The models work one at a time: a clock counts the work of its own model alone, and no time for pictures.
    """
    racers = [
        Racer(title_of(one), iter(one.generate_steps(name, seeds=[seed])), passes_of_a_step(one), one.device)
        for one in pipelines
    ]
    while not all(racer.done for racer in racers):
        number = min((i for i, racer in enumerate(racers) if not racer.done), key=lambda i: racers[i].seconds)
        racers[number].advance()
        yield racers, number


def race_live(desk: Desk, name: str, seed: int) -> Iterator[tuple[list[Image.Image | None], list[str]]]:
    """Pictures and clocks of the rival and of the model whenever a picture changes; the other picture is None."""
    assert desk.rival is not None
    pipelines = [desk.rival, desk.pipeline]
    shown_at = [-FRAME, -FRAME]
    for racers, number in race(pipelines, desk.label_of(name), seed):
        racer = racers[number]
        if racer.last is not None and (racer.done or racer.seconds >= shown_at[number] + FRAME):
            shown_at[number] = racer.seconds
            pictures: list[Image.Image | None] = [None, None]
            pictures[number] = fitted(racer.last.preview()[0])
            yield pictures, [one.clock for one in racers]


def compare_tab(page: PageJobs) -> None:
    """Controls above, the two models side by side."""
    desk = page.desk
    if desk.rival is None:
        gr.Markdown(
            "Two models fill the same class side by side, step by step, each against its own clock. Start the studio "
            "with a second one: `nextscale studio --rival out/runs/raster`, where `nextscale train raster` trained it."
        )
        return
    titles = [title_of(one) for one in (desk.rival, desk.pipeline)]
    with gr.Row(equal_height=True):
        name = gr.Dropdown(desk.class_choices, value=desk.class_choices[0], label="Class")
        seed = gr.Number(0, label="Seed")
    with gr.Row():
        start = gr.Button("Start both", variant="primary", elem_id="compare-start")
        stop = gr.Button("Stop", interactive=False)
    status = gr.Markdown("Ready.", elem_id="compare-status")
    with gr.Row():
        pictures, clocks = [], []
        for title in titles:
            with gr.Column(min_width=280):
                pictures.append(shown_picture(title))
                clocks.append(gr.Markdown(""))

    def work(job: Job, name: str, seed: float) -> Iterator[Update]:
        used = seed_of(seed, False)
        for shown, texts in race_live(desk, name, used):
            update: Update = dict(zip(clocks, texts, strict=True)) | {status: f"{name}, seed {used}"}
            update |= {place: job.shown(one) for place, one in zip(pictures, shown, strict=True) if one}
            yield update

    page.job("Compare", start, stop, status, work, [name, seed], [*pictures, *clocks])
