"""Buttons that start jobs: while one runs they say so, and a page that is loaded again finds it.

Each tab has one: `Bench.job` wires its buttons, and `Bench.restore` what a page shows when it is loaded.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from nextscale.studio.desk import Desk
from nextscale.studio.errors import Refused, lenient, one_line, tell
from nextscale.studio.jobs import Job, Update, Visitor

FOLLOWERS = 40
"""Pages that may look at a job at once."""


@dataclass
class Bench:
    """The desk as one page sees it: whose page it is, and what comes back when it is loaded again."""

    desk: Desk
    token: gr.State
    restored: list[tuple[Callable[..., Iterator[Update]], list[Any]]] = field(default_factory=list)

    def job(
        self,
        tab: str,
        start: gr.Button,
        stop: gr.Button | None,
        status: gr.Markdown,
        work: Callable[..., Iterator[Update]],
        inputs: list[Any],
        outputs: list[Any],
        kept: Callable[[Visitor], Update] | None = None,
    ) -> None:
        """`start` runs `work(job, *inputs)`, whose updates are of `outputs`; `stop` ends it after the step at hand.

        `kept` are updates that a page shows again whether there is a job or not. What `status` says is said once the
        page has loaded.
        """
        ready, status.value = status.value, "Loading ..."
        label, outputs = str(start.value), [*outputs, status, start, *([stop] if stop else [])]

        def waiting(running: bool) -> Update:
            update: Update = {start: gr.Button("Working ..." if running else label, interactive=not running)}
            return update | ({stop: gr.Button(interactive=running)} if stop else {})

        def followed(job: Job) -> Iterator[Update]:
            yield waiting(True) | ({} if job.made or job.before else {status: "Starting ..."})
            for news in job.follow():
                if isinstance(news, int):
                    yield {status: f"Waiting: {news} job{'s' if news > 1 else ''} to go before this one."}
                else:
                    yield news | waiting(True)
            if job.error:
                tell(job.error)
                yield {status: f"Not done: {job.error}."}
            elif job.stopped:
                yield {status: "Stopped."}
            yield waiting(False)

        def run(token: str | None, *values: Any) -> Iterator[Update]:
            try:
                for value in values:
                    if isinstance(value, Refused):
                        raise ValueError(value.message)
                job = self.desk.visitors.begin(token, tab, lambda job: work(job, *values))
            except ValueError as error:
                tell(one_line(error))
                yield {status: f"Not done: {one_line(error)}."}
                return
            yield from followed(job)

        def halt(token: str | None) -> None:
            job = self.desk.visitors.visitor(token).jobs.get(tab)
            if job:
                job.stop()

        def restore(token: str | None) -> Iterator[Update]:
            visitor = self.desk.visitors.visitor(token)
            job = visitor.jobs.get(tab)
            yield {status: gr.skip() if job else ready} | (kept(visitor) if kept else {})
            if job:
                yield from followed(job)

        for component in inputs:
            lenient(component)
        start.click(
            run, [self.token, *inputs], outputs, concurrency_limit=FOLLOWERS, api_name=tab.lower(),
            show_progress="hidden",
        )  # fmt: skip
        if stop:
            stop.click(halt, self.token, None, queue=False, api_visibility="private")
        self.restored.append((restore, outputs))

    def restore(self, page: gr.Blocks, browser: gr.BrowserState) -> None:
        """Wire what happens when the page is loaded: who it is, and what they had."""

        def known(token: str | None) -> tuple[str, str]:
            token = token or secrets.token_hex(16)
            return token, token

        event = page.load(known, browser, [browser, self.token], show_progress="hidden", api_visibility="private")
        for restore, outputs in self.restored:
            event.then(
                restore, self.token, outputs, concurrency_limit=FOLLOWERS, show_progress="hidden",
                api_visibility="private",
            )  # fmt: skip
