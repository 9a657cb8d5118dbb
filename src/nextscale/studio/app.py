"""The page with all its tabs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from nextscale.studio.anatomy import inspect_tab
from nextscale.studio.compare import compare_tab
from nextscale.studio.desk import Desk, take_files
from nextscale.studio.edit import edit_tab
from nextscale.studio.events import QUIET, PageJobs, errors_as_messages
from nextscale.studio.generate import ReadyMade, generate_tab
from nextscale.studio.jobs import WAITING, Job, Update
from nextscale.studio.scaling import scaling_tab
from nextscale.studio.theme import asset, studio_theme

log = logging.getLogger(__name__)
EVERY, KEPT = 3600, 24 * 3600
"""Seconds between looks for old copies of files, and the age at which they are removed."""
LOOK = 0.5
"""Seconds between looks for Ctrl-C."""
LAST_NEWS = 1.0
"""Seconds in which a page reads that another model is open; a stream that still goes on then holds up the closing."""
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
    take_files(desk.folder)  # before components are made
    with gr.Blocks(title="nextscale studio", delete_cache=(EVERY, KEPT)) as blocks:
        browser = gr.BrowserState(None, storage_key="nextscale-studio", secret="nextscale-studio")
        page, ready_made = PageJobs(desk, gr.State(None)), ReadyMade(desk)
        header(page)
        editing = desk.pipeline.family.editable
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
            with purposeful_tab("Scaling"):
                scaling_tab(desk)

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


def header(page: PageJobs) -> None:
    """What the model is, and where there are others, a choice of them."""
    desk, model = page.desk, page.desk.pipeline
    size = model.tokenizer.config.image_size
    takes = "drawn from prompts" if model.reads_prompts else f"{len(model.class_names)} classes"
    count = len(model.schedule)
    about = f"{size[1]} x {size[0]} pixels in {count} scale{'s' * (count != 1)}, {takes}"
    with gr.Row(elem_id="header"):
        with gr.Column(scale=3, min_width=300):
            gr.Markdown(f"# nextscale studio\n{desk.model}: {about}, {model.precision} on {model.device}")
            if desk.shelf is None:
                return
            status = gr.Markdown("", elem_id="model-status")
        with gr.Column(scale=2, min_width=300), gr.Row(elem_id="switcher"):
            names = list(desk.shelf.models.items())
            chosen = gr.Dropdown(names, value=desk.model, label="Model", min_width=160, elem_id="model")
            start = gr.Button("Open", min_width=90, elem_id="model-open")

    def work(_: Job, name: str) -> Iterator[Update]:
        for line in desk.switch(name):
            yield {status: line}

    page.job("Model", start, None, status, work, [chosen], [])


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
            js=f"() => {{ ({asset('page.js')})(); ({asset('race.js')})(); }}",
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
    """Serve the page until stopped, anew for each model that is chosen; the desk is closed in any case.

    Raises ValueError for a port in use.
    """
    try:
        while True:
            page = open_page(desk, host=host, port=port, open_browser=open_browser)
            log.info("the studio shows %s at http://%s:%d; stop with Ctrl-C", desk.model, host, port)
            try:
                while not desk.switched.wait(LOOK):  # with a limit: without one, Windows keeps Ctrl-C waiting
                    pass
                time.sleep(LAST_NEWS)
                page.temp_file_sets = []  # what was made stays, or gradio would remove it now
            except KeyboardInterrupt:
                return
            finally:
                page.close(verbose=False)
            desk.turn_over()
            open_browser = False
    finally:
        desk.close()
