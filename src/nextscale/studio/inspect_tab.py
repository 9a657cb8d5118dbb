"""The Inspect tab: an image's pyramid step by step, and what the model makes of it."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from nextscale.pictures import grid
from nextscale.studio.desk import Desk, large, require_size
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
from nextscale.studio.pictures import shown_picture
from nextscale.studio.plots import residual_plot
from nextscale.studio.queue import MODEL
from nextscale.studio.uploads import checked

LIKELIEST = "(likeliest)"


def inspect_tab(desk: Desk) -> None:
    """Upload at the left; the pyramid, its figures and maps at the right."""
    schedule = desk.pipeline.schedule
    last = len(schedule)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            picture = checked(
                gr.Image(
                    label="Image", type="pil", sources=["upload", "clipboard"], format="png", elem_id="inspect-image"
                )
            )
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
            attention = shown_picture("Attention of the clicked token, coarse to fine", elem_id="inspect-attention")
            pyramid = shown_picture("After each scale")
            added = shown_picture("What each scale adds (grey: nothing)")
            likelihood = shown_picture("How expected each token is (bright: likely)")
    with gr.Row():
        with gr.Column(min_width=280):
            gr.Markdown("Latents still unexplained", elem_classes="title")
            residuals = gr.Plot(show_label=False)
        codes = gr.Dataframe(
            headers=["scale", "tokens", "different codes", "perplexity", "nats per token"], label="Codes",
            interactive=False, elem_id="inspect-codes",
        )  # fmt: skip
    found = gr.State(None)

    @told
    def run(uploaded: Image.Image | None, name: str) -> tuple[Any, ...]:
        if uploaded is None:
            raise ValueError("there is no image yet: upload one")
        require_size(uploaded)
        label = None if name == LIKELIEST else desk.pipeline.class_ids(desk.label_of(name))[0]
        seen = inspect_image(desk.pipeline, uploaded.convert("RGB"), label)
        return (
            seen, last, large(seen.stages[-1]), grid([large(one, 96) for one in seen.stages], columns=last, gap=4),
            additions(seen), heat(seen.likelihood, schedule, -8.0, 0.0), residual_plot(seen.norms, schedule),
            codebook_usage(seen), None, said(seen),
        )  # fmt: skip

    def said(seen: Inspection) -> str:
        names = desk.class_choices
        bits = -float(seen.likelihood.sum()) / 0.6931 / (seen.image.width * seen.image.height)
        return f"Class: **{names[min(seen.label, len(names) - 1)]}**. The tokens cost {bits:.3f} bits per pixel."

    start.click(
        run, [picture, name],
        [found, step, stage, pyramid, added, likelihood, residuals, codes, attention, status],
        concurrency_id=MODEL, concurrency_limit=1, api_name="inspect",
    )  # fmt: skip

    def show(seen: Inspection | None, chosen: float) -> Image.Image | None:
        return large(seen.stages[int(chosen) - 1]) if seen else None

    step.change(show, [found, step], stage, queue=False, show_progress="hidden")

    @told
    def look(seen: Inspection | None, chosen: float, event: gr.SelectData) -> Any:
        if seen is None:
            return gr.skip()
        scale = int(chosen) - 1
        height, width = schedule[scale]
        shown = large(seen.stages[scale])
        column = min(width - 1, int(event.index[0] * width / shown.width))
        row = min(height - 1, int(event.index[1] * height / shown.height))
        return attention_of(desk.pipeline, seen, scale, row, column)

    stage.select(look, [found, step], attention, concurrency_id=MODEL)
