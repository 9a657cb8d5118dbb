"""The page with all its tabs."""

from __future__ import annotations

import logging
import os
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from nextscale.studio.anatomy import inspect_tab
from nextscale.studio.compare import compare_tab
from nextscale.studio.desk import Desk, take_files
from nextscale.studio.edit import edit_tab
from nextscale.studio.events import QUIET, PageJobs, errors_as_messages
from nextscale.studio.generate import ReadyMade, generate_tab
from nextscale.studio.jobs import WAITING, Update
from nextscale.studio.scaling import scaling_tab
from nextscale.studio.theme import asset, studio_theme

log = logging.getLogger(__name__)
EVERY, KEPT = 3600, 24 * 3600
"""Seconds between looks for old copies of files, and the age at which they are removed."""
PURPOSES = {
    "Generate": "Draw images from coarse to fine: each scale is one pass of the model, and is shown as it is drawn.",
    "Edit": "Paint over a part of an image and have the model draw it anew, or let it draw beyond the edges.",
    "Inspect": "Take an image apart: what each scale adds, which tokens it takes, and where the model looks.",
    "Compare": "See two models fill the same image side by side, each against its own clock.",
    "Scaling": "See how the loss falls with size and compute, and how models compare.",
}
"""What each tab is for, in a sentence."""


def build_studio(desk: Desk) -> gr.Blocks:
    """All tabs of the page."""
    model = desk.pipeline
    size = model.tokenizer.config.image_size
    takes = "drawn from prompts" if model.reads_prompts else f"{len(model.class_names)} classes"
    take_files(desk.folder)  # before components are made
    with gr.Blocks(title="nextscale studio", delete_cache=(EVERY, KEPT)) as blocks:
        gr.Markdown(
            f"# nextscale studio\n{desk.model}: {size[1]} x {size[0]} pixels in {len(model.schedule)} scales, "
            f"{takes}, {model.precision} on {model.device}"
        )
        browser = gr.BrowserState(None, storage_key="nextscale-studio", secret="nextscale-studio")
        page, ready_made = PageJobs(desk, gr.State(None)), ReadyMade(desk)
        editing = model.family.editable
        with gr.Tabs() as tabs:
            with purposeful_tab("Generate"):
                made = generate_tab(page, ready_made)
            with purposeful_tab("Edit", visible=editing):
                canvas = edit_tab(page, ready_made) if editing else None
            with purposeful_tab("Inspect", visible=editing):
                if editing:
                    inspect_tab(page, ready_made)
            with purposeful_tab("Compare"):
                compare_tab(page)
            with purposeful_tab("Scaling") as scaling:
                scaling_tab(desk, scaling)

        if canvas is None:
            made.take.visible = False
        else:

            @errors_as_messages
            def taken(chosen: tuple[str, str]) -> Update:
                return canvas.opened(chosen[0]) | {tabs: gr.Tabs(selected="Edit")}

            made.take.click(taken, made.chosen, [*canvas.parts, tabs], **QUIET)
        page.restore(blocks, browser)
    blocks.queue(max_size=WAITING, default_concurrency_limit=4)
    return blocks


def purposeful_tab(name: str, **options: Any) -> gr.Tab:
    """A tab that says what it is for."""
    with gr.Tab(name, id=name, **options) as tab:
        gr.Markdown(PURPOSES[name], elem_classes="purpose")
    return tab


def open_page(desk: Desk, *, host: str, port: int, open_browser: bool = False) -> gr.Blocks:
    """Serve the page in the background. Raises ValueError for a port in use."""
    page = build_studio(desk)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            theme=studio_theme(),
            css=asset("style.css"),
            js=asset("page.js"),
            footer_links=[],
            run_history=False,
            max_file_size="32mb",
            ssr_mode=False,
            max_threads=2 * WAITING,
        )
    except OSError as error:
        raise ValueError(f"--port {port}: cannot listen at {host} ({' '.join(str(error).split())})") from error
    return page


def run_studio(desk: Desk, *, host: str, port: int, open_browser: bool) -> None:
    """Serve the page until stopped; the desk is closed in any case. Raises ValueError for a port in use."""
    try:
        page = open_page(desk, host=host, port=port, open_browser=open_browser)
        log.info("the studio is at http://%s:%d; stop with Ctrl-C", host, port)
        try:
            page.block_thread()
        finally:
            page.close()
    finally:
        desk.close()
