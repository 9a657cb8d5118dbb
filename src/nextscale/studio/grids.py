"""A grid of images: classes as rows, guidance as columns, the same seeds in every cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.studio.desk import Desk, seed_of
from nextscale.studio.events import PageJobs
from nextscale.studio.figures import table_of
from nextscale.studio.history import History
from nextscale.studio.jobs import Job, Update

MOST_DRAWN = 64
"""Images of a grid at most."""
Files = list[tuple[str, str]]


def grid_live(
    desk: Desk, names: Sequence[str], strengths: Sequence[float], seeds: Sequence[int]
) -> Iterator[tuple[str, str, Files]]:
    """After every cell, row by row: how far it is, the table as HTML, and the files of the cell.

    Raises ValueError for an empty or too large grid.
    """
    total = len(names) * len(strengths) * len(seeds)
    if not 0 < total <= MOST_DRAWN:
        raise ValueError(f"a grid has 1 to {MOST_DRAWN} images; these settings make {total}")
    setting = setting_of(desk)
    columns = [f"{setting} {strength:g}" for strength in strengths]
    rows: list[tuple[str, list[list[tuple[str, Image.Image]]]]] = []
    done = 0
    for name in names:
        rows.append((name, [[] for _ in columns]))
        for cell, column, strength in zip(rows[-1][1], columns, strengths, strict=True):
            label = desk.label_of(name)
            sampling = desk.pipeline.sampling(**{setting: strength})
            images = desk.pipeline.generate(label, seeds=seeds, config=sampling).images
            files: Files = []
            for image, seed in zip(images, seeds, strict=True):
                cell.append((f"{name}, {column}, seed {seed}", image))
                facts = desk.named(label) | {setting: strength, "seed": seed}
                files.append((desk.saved(image, facts), cell[-1][0]))
            done, seen = done + len(files), ", ".join(map(str, seeds))
            yield f"{done} of {total} images, seeds {seen}", table_of("", columns, rows), files


def setting_of(desk: Desk) -> str:
    """What the columns change: guidance, or truncation where a model has that instead."""
    return "truncation" if desk.pipeline.family.truncates else "guidance"


def numbers(text: str) -> list[float]:
    """Numbers with commas. Raises ValueError."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"numbers with commas are wanted, such as 1,3,6; got {text}") from error


def grid_part(page: PageJobs, history: History) -> None:
    """Its controls and the table, closed at first."""
    desk = page.desk
    setting = setting_of(desk)
    with gr.Accordion(f"Grid: classes x {setting} x seeds", open=False, elem_id="grid"):
        with gr.Row():
            names = grid_names(desk)
            default = "0.5,0.8,1" if setting == "truncation" else "0,2,4"
            strengths = gr.Textbox(default, label=setting.capitalize(), info="With commas, one column each.")
            first = gr.Number(0, label="First seed", min_width=100)
            count = gr.Slider(1, 8, value=2, step=1, label="Seeds", info="Images in each cell.")
        with gr.Row():
            start = gr.Button("Draw the grid", variant="primary", elem_id="grid-start")
            stop = gr.Button("Stop", interactive=False)
        status = gr.Markdown("", elem_id="grid-status")
        table = gr.HTML("", elem_id="grid-table", padding=False)

    def work(job: Job, names: Any, strengths: str, first: float, count: float) -> Iterator[Update]:
        begin = seed_of(first, False)
        chosen = [line for line in names.splitlines() if line.strip()] if isinstance(names, str) else names
        seeds = [begin + number for number in range(int(count))]
        for line, shown, files in grid_live(desk, chosen, numbers(strengths), seeds):
            job.visitor.made[:0] = files
            yield {status: line, table: shown} | history.shown(job.visitor)

    page.job("Grid", start, stop, status, work, [names, strengths, first, count], [table, *history.parts])


def grid_names(desk: Desk) -> Any:
    """Classes, or prompts line by line."""
    if desk.pipeline.reads_prompts:
        examples = "\n".join((desk.pipeline.config.prompts or ())[:2])
        return gr.Textbox(examples, label="Prompts", info="One in a line.", lines=3)
    choices = desk.class_choices
    return gr.Dropdown(choices, value=choices[:2], multiselect=True, label="Classes", info="One row each.")
