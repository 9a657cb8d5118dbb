"""The Inspect tab: an image's pyramid step by step, and what the model makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.studio.buttons import Bench
from nextscale.studio.errors import told
from nextscale.studio.inspection import (
    Inspection,
    additions,
    attention_of,
    codebook_usage,
    heat,
    inspect_image,
    mask_picture,
)
from nextscale.studio.jobs import Job, Update
from nextscale.studio.pictures import clickable, shown_picture, strip
from nextscale.studio.plots import residual_plot
from nextscale.studio.uploads import image_input, tell_unreadable, uploaded

LIKELIEST = "(likeliest)"


def inspect_tab(bench: Bench) -> None:
    """Upload at the left; the pyramid, its figures and maps at the right."""
    desk = bench.desk
    schedule = desk.pipeline.schedule
    last = len(schedule)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            picture = image_input(label="Image", height=300, elem_id="inspect-image")
            name = gr.Dropdown([LIKELIEST, *desk.class_choices], value=LIKELIEST, label="Class given to the model")
            start = gr.Button("Inspect", variant="primary", elem_id="inspect-start")
            status = gr.Markdown("Upload an image to look into its pyramid.", elem_id="inspect-status")
            shown_picture(
                "Attention mask: each scale sees itself and the coarser ones", value=mask_picture(schedule), buttons=[]
            )
        with gr.Column(scale=2, min_width=300):
            step = gr.Slider(1, last, value=last, step=1, label="Scales added up", elem_id="inspect-step")
            stage = shown_picture(
                "The image after that scale: click a token to see where it looks", elem_id="inspect-stage"
            )
            attention = shown_picture(
                "Attention of the clicked token, coarse to fine", wide=True, elem_id="inspect-attention"
            )
            pyramid = shown_picture("After each scale", wide=True)
            added = shown_picture("What each scale adds (grey: nothing)", wide=True)
            likelihood = shown_picture("How expected each token is (bright: likely)", wide=True)
    with gr.Row():
        with gr.Column(min_width=280):
            gr.Markdown("Latents still unexplained", elem_classes="title")
            residuals = gr.Plot(show_label=False)
        codes = gr.Dataframe(
            headers=["scale", "tokens", "codes used", "perplexity", "nats/token"], label="Codes",
            interactive=False, elem_id="inspect-codes",
        )  # fmt: skip
    found = gr.State(None)
    tell_unreadable(picture)

    def work(job: Job, file: str | None, name: str) -> Iterator[Update]:
        if file is None:
            raise ValueError("there is no image yet: upload one")
        yield {status: "Reading its tokens ..."}
        label = None if name == LIKELIEST else desk.pipeline.class_ids(desk.label_of(name))[0]
        seen = inspect_image(desk.pipeline, uploaded(file), label)
        yield {
            found: seen, step: last, stage: clickable(seen.stages[-1]), attention: None, status: said(seen),
            pyramid: strip([[one] for one in seen.stages]), added: additions(seen),
            likelihood: heat(seen.likelihood, schedule, -8.0, 0.0),
            residuals: residual_plot(seen.norms, schedule), codes: codebook_usage(seen),
        }  # fmt: skip

    def said(seen: Inspection) -> str:
        names = desk.class_choices
        bits = -float(seen.likelihood.sum()) / 0.6931 / (seen.image.width * seen.image.height)
        return f"Class: **{names[min(seen.label, len(names) - 1)]}**. The tokens cost {bits:.3f} bits per pixel."

    bench.job(
        "Inspect", start, None, status, work, [picture, name],
        [found, step, stage, pyramid, added, likelihood, residuals, codes, attention],
    )  # fmt: skip

    def show(seen: Inspection | None, chosen: float) -> Image.Image | None:
        return clickable(seen.stages[int(chosen) - 1]) if seen else None

    step.change(show, [found, step], stage, queue=False, show_progress="hidden", api_visibility="private")

    @told
    def look(seen: Inspection | None, chosen: float, event: gr.SelectData) -> Any:
        if seen is None:
            return gr.skip()
        scale = int(chosen) - 1
        height, width = schedule[scale]
        shown = clickable(seen.stages[scale])
        column = min(width - 1, int(event.index[0] * width / shown.width))
        row = min(height - 1, int(event.index[1] * height / shown.height))
        with desk.visitors.line.turn():
            return attention_of(desk.pipeline, seen, scale, row, column)

    stage.select(look, [found, step], attention, show_progress="minimal", api_visibility="private")
