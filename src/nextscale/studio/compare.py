"""The Compare tab: two models fill an image side by side, each against its own clock."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import torch
from PIL import Image

from nextscale.bench.machine import now
from nextscale.pipeline import VARPipeline
from nextscale.results import GenerationStep
from nextscale.studio.components import wanted_field
from nextscale.studio.desk import NO_CLASS, Desk, seed_of
from nextscale.studio.events import PageJobs
from nextscale.studio.jobs import Job, Update, Visitor
from nextscale.studio.pictures import fitted
from nextscale.studio.race import SIDE, Lane, kept_moments, race_html, with_gaps
from nextscale.studio.ready import FirstResult, quick

LIVE = 0.5
"""Seconds between two looks at models that are still at work."""


@dataclass
class Racer:
    """A model at work: its steps, and the time they have taken so far."""

    title: str
    steps: Iterator[GenerationStep]
    each: int
    "Passes of the transformer in one of these steps."
    device: torch.device
    seconds: float = 0.0
    done: bool = False
    moments: list[tuple[float, int]] = field(default_factory=list)
    "Seconds after each step, and passes so far."
    taken: list[GenerationStep] = field(default_factory=list, repr=False)

    def advance(self) -> None:
        """One step, timed."""
        began = now(self.device)
        step = next(self.steps, None)
        self.seconds += now(self.device) - began
        if step is None:
            self.done = True
        else:
            self.taken.append(step)
            self.moments.append((self.seconds, self.each * len(self.taken)))

    def lane(self, *, whole: bool) -> Lane:
        """The model as the page shows it, with pictures of all its steps or of the last."""
        count = len(self.taken)
        numbers = kept_moments(count) if whole else range(max(0, count - 1), count)
        pictures = [(number, picture_of(self.taken[number])) for number in numbers]
        return Lane(self.title, tuple(self.moments), pictures)


def picture_of(step: GenerationStep) -> Image.Image:
    """The image after a step, grey where a token is not drawn: there nothing is accumulated."""
    drawn = step.accumulated[0].ne(0).any(dim=0).cpu().numpy()
    return with_gaps(fitted(step.preview()[0], SIDE), drawn)


def title_of(pipeline: VARPipeline) -> str:
    """Kind and size of a model: size decides the time of a step."""
    return f"{pipeline.family.title}, {pipeline.family.parameters(pipeline.transformer) / 1e6:.2g}M parameters"


def passes_of_a_step(pipeline: VARPipeline) -> int:
    """Passes of the transformer in one step that is shown: a row of tokens where they are drawn one by one."""
    config, family = pipeline.transformer.config, pipeline.family
    for stack in family.stacks(config, steps=pipeline.sampling().steps)[:1]:
        return max(1, stack.times * len(stack.sequence) // family.yields(config))
    return 1


def race(pipelines: Sequence[VARPipeline], name: Any, seed: int) -> Iterator[list[Racer]]:
    """The model whose clock is behind takes the next step; yields after each.

    The models work one at a time: a clock counts the work of its own model alone, and no time for pictures.
    """
    racers = [
        Racer(title_of(one), iter(one.generate_steps(name, seeds=[seed])), passes_of_a_step(one), one.device)
        for one in pipelines
    ]
    while not all(racer.done for racer in racers):
        min((racer for racer in racers if not racer.done), key=lambda racer: racer.seconds).advance()
        yield racers


def race_live(desk: Desk, name: str, seed: int) -> Iterator[tuple[list[Lane], bool]]:
    """The model and its rival: now and then how far they are, and last all that they did; and whether they are done."""
    assert desk.rival is not None
    looked, racers = time.monotonic(), []
    for racers in race([desk.pipeline, desk.rival], desk.label_of(name), seed):
        if time.monotonic() - looked > LIVE:
            yield [racer.lane(whole=False) for racer in racers], False
            looked = time.monotonic()
    yield [racer.lane(whole=True) for racer in racers], True


def warm_up(desk: Desk) -> None:
    """A first image that no clock counts, for it takes longer (on CUDA graphs are captured); none of slow models."""
    assert desk.rival is not None
    for one in filter(quick, (desk.pipeline, desk.rival)):
        for _ in one.generate_steps(None, seeds=[0]):
            pass


def compare_tab(page: PageJobs) -> None:
    """Controls above, the two models side by side, and the axis of time below."""
    desk, rival = page.desk, page.desk.rival
    if rival is None:
        gr.Markdown(
            "Two models fill the same class side by side, step by step, each against its own clock. Start the studio "
            "with a second one: `nextscale studio --rival out/runs/raster`, where `nextscale train raster` trained it."
        )
        return
    if rival.reads_prompts != desk.pipeline.reads_prompts:
        gr.Markdown("One of the two models draws from prompts and the other one classes: nothing can be asked of both.")
        return
    with gr.Row(equal_height=True):
        name = wanted_field(desk)
        seed = gr.Number(0, label="Seed", info="Of both models.", elem_id="compare-seed")
    with gr.Row():
        start = gr.Button("Start both", variant="primary", elem_id="compare-start")
        stop = gr.Button("Stop", interactive=False, elem_id="compare-stop")
    status = gr.Markdown("Ready.", elem_id="compare-status")
    empty = [Lane(title_of(one)) for one in (desk.pipeline, rival)]
    shown = gr.HTML(race_html(empty, running=True), elem_id="compare-race", padding=False)
    warm = functools.cache(lambda: warm_up(desk))

    def run(name: str, seed: int) -> Iterator[Update]:
        yield {status: f"{name or NO_CLASS}, seed {seed}", shown: race_html(empty, running=True)}
        warm()
        for lanes, done in race_live(desk, name, seed):
            yield {shown: race_html(lanes, running=not done)}

    def work(job: Job, name: str, seed: float) -> Iterator[Update]:
        yield from run(name, seed_of(seed, False))

    first = FirstResult(desk, lambda: list(run(name.value, 0)), desk.pipeline, rival)

    def kept(visitor: Visitor) -> Update:
        """The ready-made comparison, where this browser has asked for none."""
        made = None if "Compare" in visitor.jobs else first.result()
        return {key: value for update in made or () for key, value in update.items()}

    page.job("Compare", start, stop, status, work, [name, seed], [shown], kept)
