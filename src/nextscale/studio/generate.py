"""The Generate tab: images appear scale by scale."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.pictures import grid
from nextscale.studio.desk import Desk, large, seed_of, strip
from nextscale.studio.errors import told
from nextscale.studio.pictures import shown_gallery, shown_picture
from nextscale.studio.queue import MODEL

MOST_IMAGES = 16


@dataclass(frozen=True)
class Frame:
    """The page while images are made, and when they are done."""

    picture: Image.Image
    strip: Image.Image
    status: str
    files: list[tuple[str, str]] | None = None
    "Finished images for the gallery: file and caption."


def generate_live(
    desk: Desk, name: str, count: int, seed: int, guidance: float, top_k: int, top_p: float
) -> Iterator[Frame]:
    """A frame after every scale; the last has the files. Raises ValueError for settings out of range."""
    pipeline = desk.pipeline
    sampling = pipeline.sampling(guidance=guidance, top_k=int(top_k), top_p=top_p)
    seeds = [seed + number for number in range(int(count))]
    began, frames = time.monotonic(), []
    steps = pipeline.generate_steps(desk.label_of(name), seeds=seeds, config=sampling)
    for step in steps:
        frames.append(step.preview())
        height, width = pipeline.schedule[step.scale] if step.scale < len(pipeline.schedule) else (0, 0)
        status = f"Scale {step.scale + 1} of {len(pipeline.schedule)}: {height} x {width} tokens"
        yield Frame(large(grid(frames[-1])), strip(frames), status)
    seconds = time.monotonic() - began
    settings = {"class": desk.label_of(name), "guidance": guidance, "top_k": int(top_k), "top_p": top_p}
    files = [
        (desk.saved(image, settings | {"seed": one}), f"{name}, seed {one}")
        for image, one in zip(frames[-1], seeds, strict=True)
    ]
    plural = "s" if len(files) > 1 else ""
    status = f"{len(files)} image{plural} of {name}, seed {seed}, in {seconds:.2f} s"
    yield Frame(large(grid(frames[-1])), strip(frames), status, files)


def generate_tab(desk: Desk) -> gr.Gallery:
    """Controls at the left, the picture at the right; returns the gallery, whose images can be taken elsewhere."""
    defaults = desk.pipeline.sampling()
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            name = gr.Dropdown(desk.class_choices, value=desk.class_choices[0], label="Class", info="Type to search.")
            count = gr.Slider(1, MOST_IMAGES, value=4, step=1, label="Images")
            with gr.Row():
                seed = gr.Number(0, precision=0, minimum=0, label="Seed", min_width=120)
                fresh = gr.Checkbox(False, label="New seed each time", min_width=120)
            guidance = gr.Slider(0, 10, value=defaults.guidance, step=0.1, label="Guidance", info="0 is off.")
            with gr.Accordion("Sampling", open=False):
                top_k = gr.Slider(
                    0, desk.pipeline.transformer.config.codebook_size, value=defaults.top_k, step=1, label="Top-k",
                    info="Likeliest tokens kept; 0 is off.",
                )  # fmt: skip
                top_p = gr.Slider(
                    0, 1, value=defaults.top_p, step=0.01, label="Top-p", info="Probability kept; 0 is off."
                )
            with gr.Row():
                start = gr.Button("Generate", variant="primary", elem_id="generate-start")
                stop = gr.Button("Stop", elem_id="generate-stop")
        with gr.Column(scale=2, min_width=300):
            picture = shown_picture("Images", elem_id="generate-picture")
            status = gr.Markdown("Ready.", elem_id="generate-status")
            scales = shown_picture("Scale by scale")
    gallery = shown_gallery(
        "Made in this session; downloads hold their settings", columns=8, elem_id="generate-gallery"
    )
    made = gr.State([])

    @told
    def run(kept: list, name: str, count: float, seed: float, fresh: bool, *sampling: float) -> Iterator[tuple]:
        used = seed_of(seed, fresh)
        for frame in generate_live(desk, name, int(count), used, *sampling):  # type: ignore[arg-type]
            kept = (frame.files or []) + kept
            shown: Any = kept if frame.files else gr.skip()
            yield frame.picture, frame.strip, frame.status, shown, kept, used

    event = start.click(
        run, [made, name, count, seed, fresh, guidance, top_k, top_p], [picture, scales, status, gallery, made, seed],
        concurrency_id=MODEL, concurrency_limit=1, api_name="generate",
    )  # fmt: skip
    stop.click(lambda: "Stopped.", None, status, cancels=[event], queue=False)
    return gallery
