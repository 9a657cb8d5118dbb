"""The page with all its tabs."""

from __future__ import annotations

import logging
import os
from importlib.resources import files

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from gradio.themes import Soft

from nextscale.studio.compare import compare_tab
from nextscale.studio.desk import Desk, take_files
from nextscale.studio.edit import edit_tab
from nextscale.studio.events import QUIET, PageJobs, errors_as_messages
from nextscale.studio.generate import generate_tab
from nextscale.studio.inspection import inspect_tab
from nextscale.studio.jobs import WAITING, Update
from nextscale.studio.scaling import scaling_tab

log = logging.getLogger(__name__)
EVERY, KEPT = 3600, 24 * 3600
"""Seconds between looks for old copies of files, and the age at which they are removed."""
FONTS = ("system-ui", "sans-serif")
"""Fonts of the system: nothing is fetched from elsewhere."""


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
        page = PageJobs(desk, gr.State(None))
        editing = model.family.editable
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id="Generate"):
                take, chosen = generate_tab(page)
            with gr.Tab("Edit", id="Edit", visible=editing):
                canvas = edit_tab(page) if editing else None
            with gr.Tab("Inspect", id="Inspect", visible=editing):
                if editing:
                    inspect_tab(page)
            with gr.Tab("Compare", id="Compare"):
                compare_tab(page)
            with gr.Tab("Scaling", id="Scaling") as scaling:
                scaling_tab(desk, scaling)

        if canvas is None:
            take.visible = False
        else:

            @errors_as_messages
            def taken(chosen: tuple[str, str]) -> Update:
                return canvas.opened(chosen[0]) | {tabs: gr.Tabs(selected="Edit")}

            take.click(taken, chosen, [*canvas.parts, tabs], **QUIET)
        page.restore(blocks, browser)
    blocks.queue(max_size=WAITING, default_concurrency_limit=4)
    return blocks


def open_page(desk: Desk, *, host: str, port: int, open_browser: bool = False) -> gr.Blocks:
    """Serve the page in the background. Raises ValueError for a port in use."""
    page = build_studio(desk)
    style = files("nextscale") / "studio" / "style.css"
    try:
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            theme=Soft(primary_hue="violet", font=FONTS),
            css=style.read_text(encoding="utf-8"),
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
