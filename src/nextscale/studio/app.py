"""The page: tabs over one desk."""

from __future__ import annotations

import logging
import os
from importlib.resources import files

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from gradio.themes import Soft

from nextscale.models.families import kind_of
from nextscale.studio.compare import compare_tab
from nextscale.studio.desk import Desk
from nextscale.studio.edit import edit_tab
from nextscale.studio.errors import told
from nextscale.studio.generate import generate_tab
from nextscale.studio.inspect_tab import inspect_tab
from nextscale.studio.queue import WAITING
from nextscale.studio.scaling import scaling_tab

log = logging.getLogger(__name__)
TABS = ("Generate", "Edit", "Inspect", "Compare", "Scaling")


def build_studio(desk: Desk) -> gr.Blocks:
    """All tabs of the page."""
    model = desk.pipeline
    size = model.tokenizer.config.image_size
    with gr.Blocks(title="nextscale studio") as page:
        gr.Markdown(
            f"# nextscale studio\n{desk.model}: {size[1]} x {size[0]} pixels in {len(model.schedule)} scales, "
            f"{len(model.class_names)} classes, {model.precision} on {model.device}"
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id="Generate"):
                gallery = generate_tab(desk)
                take = gr.Button("Edit the chosen image", size="sm", elem_id="take")
                picked = gr.State(None)
            editing = kind_of(model.transformer.config).kind == "var"
            with gr.Tab("Edit", id="Edit", visible=editing):
                canvas = edit_tab(desk) if editing else None
            with gr.Tab("Inspect", id="Inspect", visible=editing):
                if editing:
                    inspect_tab(desk)
            with gr.Tab("Compare", id="Compare"):
                compare_tab(desk)
            with gr.Tab("Scaling", id="Scaling") as scaling:
                scaling_tab(desk, scaling)

        def pick(event: gr.SelectData) -> int:
            return int(event.index)

        gallery.select(pick, None, picked, queue=False, show_progress="hidden")

        @told
        def taken(images: list | None, number: int | None) -> tuple:
            from PIL import Image

            if not images:
                raise ValueError("there is no image yet: generate one first")
            path = images[number if number is not None and number < len(images) else 0][0]
            image = Image.open(path).convert("RGBA")
            return {"background": image, "layers": [], "composite": image}, gr.Tabs(selected="Edit")

        if canvas is not None:
            take.click(taken, [gallery, picked], [canvas, tabs], queue=False, show_progress="hidden")
    page.queue(max_size=WAITING, default_concurrency_limit=4)
    return page


def open_page(desk: Desk, *, host: str, port: int, open_browser: bool = False) -> gr.Blocks:
    """Serve the page in the background. Raises ValueError for a port in use."""
    page = build_studio(desk)
    style = files("nextscale") / "studio" / "style.css"
    try:
        page.launch(
            server_name=host, server_port=port, quiet=True, inbrowser=open_browser, prevent_thread_lock=True,
            footer_links=[], theme=Soft(primary_hue="violet"), css=style.read_text(encoding="utf-8"),
            max_file_size="32mb", ssr_mode=False,
        )  # fmt: skip
    except OSError as error:
        raise ValueError(f"--port {port}: cannot listen at {host} ({' '.join(str(error).split())})") from error
    return page


def run_studio(desk: Desk, *, host: str, port: int, open_browser: bool) -> None:
    """Serve the page until stopped."""
    page = open_page(desk, host=host, port=port, open_browser=open_browser)
    log.info("the studio is at http://%s:%d; stop with Ctrl-C", host, port)
    try:
        page.block_thread()
    finally:
        page.close()
