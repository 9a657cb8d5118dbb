"""Events of the page: buttons that start jobs, and messages that say what is wrong.

A page that is loaded again shows its running jobs: `PageJobs.job` wires the buttons of a tab, `PageJobs.restore` what
happens when the page is loaded.
"""

from __future__ import annotations

import functools
import html
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from nextscale.studio.desk import Desk
from nextscale.studio.jobs import Job, Update, Visitor, one_line

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of events that are the page's own and take no time."""
FOLLOWING: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 40}
"""Options of events that follow a job; the limit is the number of pages that do so at once."""


@dataclass(frozen=True)
class Refused:
    """In place of a value that a component did not accept."""

    message: str


@dataclass(frozen=True)
class JobButtons:
    """Where a tab shows its job: the button that starts it, the one that stops it, and a line of text."""

    start: gr.Button
    stop: gr.Button | None
    status: gr.Markdown
    label: str
    "Text of the button while no job runs."

    @property
    def parts(self) -> list[Any]:
        return [self.status, self.start, *([self.stop] if self.stop else [])]

    def buttons(self, running: bool) -> Update:
        """The buttons while a job runs, and while none does."""
        update: Update = {self.start: gr.Button("Working ..." if running else self.label, interactive=not running)}
        return update | ({self.stop: gr.Button(interactive=running)} if self.stop else {})

    def follow(self, job: Job) -> Iterator[Update]:
        """Updates of the page until the job ends."""
        yield self.buttons(True) | ({} if job.made or job.before else {self.status: "Starting ..."})
        for news in job.follow():
            if isinstance(news, int):
                yield {self.status: f"Waiting: {news} job{'s' if news > 1 else ''} to go before this one."}
            else:
                yield news | self.buttons(True)
        if job.error:
            show_message(job.error)
            yield {self.status: f"Not done: {job.error}."}
        elif job.stopped:
            yield {self.status: "Stopped."}
        yield self.buttons(False)


@dataclass
class PageJobs:
    """The jobs of one page."""

    desk: Desk
    token: gr.State
    "Names the browser."
    restored: list[tuple[Callable[..., Iterator[Update]], list[Any]]] = field(default_factory=list)
    "Events of a page that is loaded, and their outputs."

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
        """`start` runs `work(job, *inputs)`, which yields updates of `outputs`; `stop` ends it after its present step.

        `kept` makes updates that a loaded page shows whether there is a job or not. `status` shows its value once the
        page has loaded.
        """
        ready, status.value = status.value, "Loading ..."
        shown, visitors = JobButtons(start, stop, status, str(start.value)), self.desk.visitors
        outputs = [*outputs, *shown.parts]

        def run(token: str | None, *values: Any) -> Iterator[Update]:
            try:
                for value in values:
                    if isinstance(value, Refused):
                        raise ValueError(value.message)
                job = visitors.begin(token, tab, lambda job: work(job, *values))
            except ValueError as error:
                show_message(one_line(error))
                yield {status: f"Not done: {one_line(error)}."}
                return
            yield from shown.follow(job)

        def halt(token: str | None) -> None:
            if job := visitors.visitor(token).jobs.get(tab):
                job.stop()

        def restore(token: str | None) -> Iterator[Update]:
            visitor = visitors.visitor(token)
            job = visitor.jobs.get(tab)
            yield {status: gr.skip() if job else ready} | (kept(visitor) if kept else {})
            if job:
                yield from shown.follow(job)

        for component in inputs:
            lenient(component)
        start.click(run, [self.token, *inputs], outputs, api_name=tab.lower(), **FOLLOWING)
        if stop:
            stop.click(halt, self.token, None, queue=False, api_visibility="private")
        self.restored.append((restore, outputs))

    def restore(self, blocks: gr.Blocks, browser: gr.BrowserState) -> None:
        """When the page is loaded, find out which browser it is in, and show its jobs."""

        def known(token: str | None) -> tuple[str, str]:
            token = token or secrets.token_hex(16)
            return token, token

        event = blocks.load(known, browser, [browser, self.token], **QUIET)
        for restore, outputs in self.restored:
            event.then(restore, self.token, outputs, api_visibility="private", **FOLLOWING)


def lenient(component: Any) -> None:
    """Have a component return `Refused` for a value it does not accept: an error would be shown over all outputs."""
    read = component.preprocess

    def preprocess(payload: Any) -> Any:
        try:
            return read(payload)
        except gr.Error as error:
            return Refused(f"{component.label}: {error.message}".rstrip("."))
        except Exception:  # an empty slider, a damaged picture
            return Refused(f"{component.label}: this value cannot be used")

    component.preprocess = preprocess


def errors_as_messages(function: Callable[..., Any], instead: Callable[[], Any] = gr.skip) -> Callable[..., Any]:
    """An event whose ValueErrors become messages; it then returns `instead()`, by default no change.

    It has to go through gradio's queue, or there are no messages.
    """

    @functools.wraps(function)
    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except ValueError as error:
            show_message(one_line(error))
            return instead()

    return call


def show_message(message: str) -> None:
    """Show a message at the corner of the page."""
    gr.Warning(html.escape(message), duration=10, title="Not done")
