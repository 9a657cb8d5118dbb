"""The page: tabs over one desk."""

from __future__ import annotations

import logging
import os
from importlib.resources import files

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from gradio.themes import Soft

from nextscale.families.table import family_of
from nextscale.studio.buttons import Bench
from nextscale.studio.compare import compare_tab
from nextscale.studio.desk import Desk
from nextscale.studio.edit import edit_tab
from nextscale.studio.errors import told
from nextscale.studio.generate import generate_tab
from nextscale.studio.inspect_tab import inspect_tab
from nextscale.studio.jobs import WAITING, Update
from nextscale.studio.place import take_files
from nextscale.studio.scaling import scaling_tab

log = logging.getLogger(__name__)
EVERY, KEPT = 3600, 24 * 3600
"""Seconds after which the page's own copies of files are looked through, and after which they go."""
FONTS = ("system-ui", "sans-serif")
"""None that a page would have to fetch from elsewhere."""
TABS = ("Generate", "Edit", "Inspect", "Compare", "Scaling")


def build_studio(desk: Desk) -> gr.Blocks:
    """All tabs of the page."""
    model = desk.pipeline
    size = model.tokenizer.config.image_size
    take_files(desk.folder)  # before components are made
    with gr.Blocks(title="nextscale studio", delete_cache=(EVERY, KEPT)) as page:
        gr.Markdown(
            f"# nextscale studio\n{desk.model}: {size[1]} x {size[0]} pixels in {len(model.schedule)} scales, "
            f"{len(model.class_names)} classes, {model.precision} on {model.device}"
        )
        browser = gr.BrowserState(None, storage_key="nextscale-studio", secret="nextscale-studio")
        bench = Bench(desk, gr.State(None))
        editing = family_of(model.transformer.config).editable
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id="Generate"):
                take, chosen = generate_tab(bench)
            with gr.Tab("Edit", id="Edit", visible=editing):
                easel = edit_tab(bench) if editing else None
            with gr.Tab("Inspect", id="Inspect", visible=editing):
                if editing:
                    inspect_tab(bench)
            with gr.Tab("Compare", id="Compare"):
                compare_tab(bench)
            with gr.Tab("Scaling", id="Scaling") as scaling:
                scaling_tab(desk, scaling)

        if easel is None:
            take.visible = False
        else:

            @told
            def taken(chosen: tuple[str, str]) -> Update:
                return easel.opened(chosen[0]) | {tabs: gr.Tabs(selected="Edit")}

            take.click(taken, chosen, [*easel.parts, tabs], show_progress="hidden", api_visibility="private")
        bench.restore(page, browser)
    page.queue(max_size=WAITING, default_concurrency_limit=4)
    return page


def open_page(desk: Desk, *, host: str, port: int, open_browser: bool = False) -> gr.Blocks:
    """Serve the page in the background. Raises ValueError for a port in use."""
    page = build_studio(desk)
    style = files("nextscale") / "studio" / "style.css"
    try:
        page.launch(
            server_name=host, server_port=port, quiet=True, inbrowser=open_browser, prevent_thread_lock=True,
            theme=Soft(primary_hue="violet", font=FONTS), css=style.read_text(encoding="utf-8"),
            footer_links=[], run_history=False, max_file_size="32mb", ssr_mode=False, max_threads=2 * WAITING,
        )  # fmt: skip
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
