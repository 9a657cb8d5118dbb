"""What a browser has made: a gallery, and what can be done with the image that is chosen in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.editing.config import EditConfig
from nextscale.studio.components import shown_gallery, uploaded
from nextscale.studio.desk import NO_CLASS, Desk, seed_of, settings_in
from nextscale.studio.events import QUIET, PageJobs, errors_as_messages
from nextscale.studio.figures import Stages, strip_of
from nextscale.studio.jobs import Job, Update, Visitor
from nextscale.studio.retouch import WHOLE, PaintedImage, edit_live

CHOOSE = "Choose an image below"
STAGES = "scales.html"
"""File beside a finished image: its steps as a part of the page."""
ALIKE, LARGER = 4, 4
"""Images that `More like this` makes, and the factor of an enlarged download."""
FETCH = "() => setTimeout(() => document.querySelector('#{}').click(), 100)"


def keep_made(files: Sequence[tuple[str, str]], stages: Sequence[Stages]) -> None:
    """Keep the steps of finished images beside them."""
    for (path, caption), one in zip(files, stages, strict=False):
        Path(path).with_name(STAGES).write_text(strip_of(caption, one), encoding="utf-8")


def stages_beside(path: str) -> str:
    """The steps of a finished image as a part of the page; empty where none were kept."""
    kept = Path(path).with_name(STAGES)
    return kept.read_text(encoding="utf-8") if kept.is_file() else ""


def chosen_of(made: list[tuple[str, str]], value: Any) -> tuple[str, str] | None:
    """The image of a gallery that was clicked, file and caption: by its path, for the gallery may have grown."""
    image = value.get("image") if isinstance(value, dict) else None
    place = Path(str((image or {}).get("path"))).parent.name  # a folder of its own
    return next((one for one in made if Path(one[0]).parent.name == place), None)


def larger(desk: Desk, path: str) -> str:
    """A new file with an image enlarged; returns its path. Its settings are those of the image."""
    image = uploaded(path)
    size = image.width * LARGER, image.height * LARGER
    return desk.saved(image.resize(size, Image.Resampling.LANCZOS), settings_in(path) | {"enlarged": LARGER})


def alike_live(desk: Desk, path: str) -> Iterator[Any]:
    """Frames of an edit of the whole image that keeps the coarser half of its scales: its layout, with new details."""
    facts = settings_in(path)
    kept = math.ceil(len(desk.pipeline.schedule) / 2)
    name = facts.get("prompt", facts.get("class")) or NO_CLASS
    return edit_live(
        desk, PaintedImage.of(path), WHOLE, name, ALIKE, seed_of(None, True), (), EditConfig(keep_scales=kept)
    )


@dataclass(frozen=True)
class History:
    """The gallery, the chosen image, and the buttons that act on it."""

    gallery: gr.Gallery
    chosen: gr.State
    "File and caption, or None."
    take: gr.Button
    reuse: gr.Button
    more: gr.Button
    save: gr.DownloadButton
    enlarge: gr.DownloadButton
    delete: gr.Button

    @property
    def parts(self) -> list[Any]:
        return [self.gallery]

    @property
    def buttons(self) -> list[Any]:
        return [self.take, self.reuse, self.more, self.save, self.enlarge, self.delete]

    def shown(self, visitor: Visitor) -> Update:
        """The gallery with all that was made."""
        return {self.gallery: gr.Gallery(value=[*visitor.made], selected_index=None)} if visitor.made else {}

    def choice(self, desk: Desk, found: tuple[str, str] | None) -> Update:
        """The buttons for an image, or without one."""
        can = found is not None
        take = gr.Button(f"Edit {found[1]}" if found else CHOOSE, interactive=can)
        update: Update = {self.chosen: found, self.take: take}
        update |= {one: gr.Button(interactive=can) for one in (self.reuse, self.more, self.delete)}
        files = (found[0], larger(desk, found[0])) if found else (None, None)
        for button, file in zip((self.save, self.enlarge), files, strict=True):
            update[button] = gr.DownloadButton(value=file, interactive=can)
        return update


def history_part(page: PageJobs, scales: gr.HTML) -> History:
    """Buttons above, the gallery below them; a chosen image shows its steps at `scales`."""
    title = "Made with this browser; downloads hold their settings"
    gr.Markdown(title, elem_classes="title")
    with gr.Row(elem_id="actions"):
        small: dict[str, Any] = {"size": "sm", "min_width": 130}
        off: dict[str, Any] = small | {"interactive": False}
        acting: dict[str, Any] = {
            "take": gr.Button(CHOOSE, elem_id="take", **off),
            "reuse": gr.Button("Reuse settings", elem_id="reuse", **off),
            "more": gr.Button("More like this", elem_id="more", visible=page.desk.pipeline.family.editable, **off),
            "save": gr.DownloadButton("Download", elem_id="save", **off),
            "enlarge": gr.DownloadButton(f"Download {LARGER}x", elem_id="enlarge", **off),
            "delete": gr.Button("Delete", elem_id="delete", **off),
        }
        zip_button(page, lambda visitor: visitor.made, "zip")
    status = gr.Markdown("", elem_id="history-status")
    gallery = shown_gallery(title, columns=8, elem_id="generate-gallery", titled=False)
    history = History(gallery, gr.State(None), **acting)
    wire_choice(page, history, scales)
    wire_more(page, history, status)
    return history


def zip_button(page: PageJobs, images: Callable[[Visitor], list[tuple[str, str]]], elem_id: str) -> None:
    """A button that downloads images of a visitor together."""
    everything = gr.Button("All as ZIP", size="sm", min_width=130, elem_id=elem_id)
    together = gr.DownloadButton("ZIP", elem_id=f"{elem_id}-file", visible="hidden")

    def zipped(token: str | None) -> str:
        return page.desk.zipped(images(page.desk.visitors.visitor(token)))

    packing = everything.click(errors_as_messages(zipped), page.token, together, **QUIET)
    packing.success(None, None, None, js=FETCH.format(f"{elem_id}-file"), api_visibility="private")


def wire_choice(page: PageJobs, history: History, scales: gr.HTML) -> None:
    """An image is chosen in the gallery, and may be deleted."""
    desk = page.desk

    def choose(token: str | None, event: gr.SelectData) -> Update:
        found = chosen_of(desk.visitors.visitor(token).made, event.value)
        steps = stages_beside(found[0]) if found else ""
        return history.choice(desk, found) | ({scales: steps} if steps else {})

    def delete(token: str | None, chosen: tuple[str, str]) -> Update:
        visitor = desk.visitors.visitor(token)
        visitor.remove(chosen[0])
        rest = gr.Gallery(value=[*visitor.made], selected_index=None)
        return history.choice(desk, None) | {history.gallery: rest}

    changed = [history.chosen, *history.buttons]
    history.gallery.select(choose, page.token, [*changed, scales], **QUIET)
    history.delete.click(delete, [page.token, history.chosen], [*changed, history.gallery], **QUIET)


def wire_more(page: PageJobs, history: History, status: gr.Markdown) -> None:
    """Images like the chosen one join the gallery."""

    def work(job: Job, chosen: tuple[str, str] | None) -> Iterator[Update]:
        if chosen is None:
            raise ValueError("there is no image yet: choose one")
        for frame in alike_live(page.desk, chosen[0]):
            yield {status: f"More like {chosen[1]}: {frame.status}"}
            if frame.files:
                job.visitor.made[:0] = [(path, f"like {chosen[1]}, {caption}") for path, caption in frame.files]
                yield history.shown(job.visitor)

    page.job("More", history.more, None, status, work, [history.chosen], history.parts)
