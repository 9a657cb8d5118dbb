"""The Edit tab: paint a mask, in-paint, out-paint, change the class, keep the coarse scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS
from nextscale.pipeline import AUTO
from nextscale.studio.components import SHOWN, seed_field, shown_gallery, wanted_field
from nextscale.studio.desk import Desk, seed_of
from nextscale.studio.events import QUIET, PageJobs, errors_as_messages
from nextscale.studio.figures import strip_of
from nextscale.studio.generate import NO_PROMPT, ReadyMade, shortened
from nextscale.studio.history import chosen_of, keep_made, stages_beside, zip_button
from nextscale.studio.jobs import Job, Update, Visitor
from nextscale.studio.painter import PaintedUpload, inline_png, mask_in, mask_of, painted_upload
from nextscale.studio.retouch import AFTER, BEFORE, INPAINT, OUTPAINT, WHOLE, PaintedImage, edit_live

EXAMPLE = (0.3, 0.3, 0.7, 0.7)
"""Left, top, right and bottom of what is painted in the example, as shares of its sides."""


@dataclass(frozen=True)
class EditControls:
    """What is asked for."""

    where: gr.Radio
    name: Any
    keep: gr.Slider
    keeping: gr.Column
    "What shows it."
    count: gr.Slider
    seed: gr.Number
    lock: gr.Checkbox
    guidance: gr.Slider
    method: gr.Dropdown
    feather: gr.Slider
    sides: list[gr.Slider]

    @property
    def parts(self) -> list[Any]:
        return [
            self.where, self.name, self.keep, self.count, self.seed, self.lock, self.guidance, self.method,
            self.feather, *self.sides,
        ]  # fmt: skip


@dataclass(frozen=True)
class Variations:
    """The results so far, and what can be done with the chosen one."""

    gallery: gr.Gallery
    chosen: gr.State
    "File and caption, or None."
    use: gr.Button
    save: gr.DownloadButton
    delete: gr.Button

    @property
    def parts(self) -> list[Any]:
        return [self.gallery, self.chosen, self.use, self.save, self.delete]

    def shown(self, visitor: Visitor) -> Update:
        """The gallery with all results, of which none is chosen."""
        seen = [(str(Path(path).with_name(AFTER)), caption) for path, caption in visitor.edited]
        return {self.gallery: gr.Gallery(value=seen, selected_index=None)} | self.choice(None)

    def choice(self, found: tuple[str, str] | None) -> Update:
        """The buttons for a result, or without one."""
        can = found is not None
        return {
            self.chosen: found,
            self.use: gr.Button(interactive=can),
            self.save: gr.DownloadButton(value=found[0] if found else None, interactive=can),
            self.delete: gr.Button(interactive=can),
        }


def edit_tab(page: PageJobs, ready_made: ReadyMade) -> PaintedUpload:
    """Canvas and controls at the left, results at the right; returns where images are opened."""
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            place = painted_upload()
            where = gr.Radio([INPAINT, OUTPAINT, WHOLE], value=INPAINT, label="What is made anew")
            around, sides = sides_controls()
            name = wanted_field(page.desk, also=[AUTO], info="auto: what the rest looks like.")
            with gr.Row():
                start = gr.Button("Edit", variant="primary", elem_id="edit-start")
                stop = gr.Button("Stop", elem_id="edit-stop", interactive=False)
            controls = edit_controls(page.desk, where, name, sides)
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("Before and after: the part that is edited", elem_classes="title")
            look: dict[str, Any] = {"slider_position": 15, "buttons": ["fullscreen"], **SHOWN}
            pair = gr.ImageSlider(label="Before and after", type="pil", elem_id="edit-pair", **look)
            status = gr.Markdown("Ready.", elem_id="edit-status")
            gr.Markdown("Scale by scale", elem_classes="title")
            scales = gr.HTML("", elem_id="edit-strip", padding=False)
            variations = variations_part(page)

    def kept(visitor: Visitor) -> Update:
        if visitor.canvas and Path(visitor.canvas[0]).is_file():
            canvas = place.opened(*visitor.canvas)
        elif ready_made.frame():
            canvas = place.opened(ready_made.files[0][0], example_mask())
        else:
            canvas = place.empty()
        del canvas[place.photo]  # not an output of the job
        return canvas | (variations.shown(visitor) if visitor.edited else {})

    def work(job: Job, source: str | None, canvas: dict | None, *values: Any) -> Iterator[Update]:
        where, name, keep, count, typed, lock, guidance, method, feather, *sides = values
        editing = EditConfig(method=method, keep_scales=0 if where == OUTPAINT else int(keep), feather=int(feather))
        painted, seed = PaintedImage.of(source, mask_of(canvas)), seed_of(typed, not lock)
        assert source is not None
        job.visitor.canvas = source, mask_in(canvas)
        strength = None if guidance == page.desk.pipeline.sampling().guidance else guidance
        yield {controls.seed: seed}
        asked = painted, where, name, int(count), seed, [int(side) for side in sides], editing
        made: list[tuple[str, str]] = []
        for frame in edit_live(page.desk, *asked, guidance=strength):
            update: Update = {status: frame.status}
            if frame.pair:
                update[pair] = tuple(job.shown(one) for one in frame.pair)
            if frame.files:
                made = [(path, f"{shortened(name or NO_PROMPT)}, {caption}") for path, caption in frame.files]
                job.visitor.edited[:0] = made
                update |= variations.shown(job.visitor)
            if frame.stages:
                keep_made(made[:1], [frame.stages])
                update[scales] = strip_of(made[0][1] if made else f"Seed {seed}", frame.stages)
            yield update

    inputs = [place.source, place.canvas, *controls.parts]
    outputs = [
        pair,
        scales,
        *variations.parts,
        controls.seed,
        *[part for part in place.parts if part is not place.photo],
    ]
    page.job("Edit", start, stop, status, work, inputs, outputs, kept)
    wire_variations(page, place, variations, pair, scales)

    def arranged(chosen: str) -> tuple[Any, Any]:
        return gr.update(visible=chosen == OUTPAINT), gr.update(visible=chosen != OUTPAINT)

    where.change(arranged, where, [around, controls.keeping], queue=False, **QUIET)
    return place


def example_mask() -> str:
    """What is painted in the example: a rectangle."""
    side = 512
    left, top, right, bottom = (round(side * edge) for edge in EXAMPLE)
    sheet = Image.new("RGBA", (side, side))
    sheet.paste("#ff3366", (left, top, right, bottom))
    return inline_png(sheet)


def sides_controls() -> tuple[gr.Group, list[gr.Slider]]:
    """How much is added at each side, in a group that is hidden at first."""
    with gr.Group(visible=False) as around:
        sides: list[gr.Slider] = []
        for names in (("Left", "Right"), ("Above", "Below")):
            with gr.Row():
                value = 32 if names[0] == "Left" else 0
                sides += [
                    gr.Slider(0, 256, value=value, step=1, label=f"{side}, pixels", min_width=110) for side in names
                ]
    return around, sides


def edit_controls(desk: Desk, where: gr.Radio, name: Any, sides: list[gr.Slider]) -> EditControls:
    """How many variations, and how they are made, beside where and what."""
    count = gr.Slider(
        1, 8, value=2, step=1, label="Variations", info="They join those below, with seeds that count on."
    )
    seed, lock = seed_field("edit-lock")
    hint = "How strongly the class is followed; 0 is off. Unchanged, auto softens it by what is kept."
    strength = desk.pipeline.sampling().guidance
    guidance = gr.Slider(0, 10, value=strength, step=0.1, label="Guidance", info=hint)
    hint = "First scales taken over from the image: more keep more of its composition."
    with gr.Column() as keeping:
        keep = gr.Slider(0, len(desk.pipeline.schedule), value=0, step=1, label="Scales kept", info=hint)
    with gr.Accordion("More", open=False):
        hint = "What keeps the rest as it is; evidence weighs codes by how well they explain it."
        method = gr.Dropdown(list(METHODS), value=EditConfig().method, label="Method", info=hint)
        hint = "Width over which the edge of the hole is blended."
        feather = gr.Slider(0, 32, value=EditConfig().feather, step=1, label="Feather, pixels", info=hint)
    return EditControls(where, name, keep, keeping, count, seed, lock, guidance, method, feather, sides)


def variations_part(page: PageJobs) -> Variations:
    """Buttons above, the results below them."""
    title = "Variations: choose one to see it above, or to edit it further"
    gr.Markdown(title, elem_classes="title")
    with gr.Row():
        off: dict[str, Any] = {"size": "sm", "min_width": 110, "interactive": False}
        use = gr.Button("Edit further", elem_id="edit-use", **off)
        save = gr.DownloadButton("Download", elem_id="edit-save", **off)
        delete = gr.Button("Delete", elem_id="edit-delete", **off)
        zip_button(page, lambda visitor: visitor.edited, "edit-zip")
    gallery = shown_gallery(title, columns=4, elem_id="edit-gallery", titled=False, allow_preview=False)
    return Variations(gallery, gr.State(None), use, save, delete)


def wire_variations(
    page: PageJobs, place: PaintedUpload, variations: Variations, pair: gr.ImageSlider, scales: gr.HTML
) -> None:
    """A result is chosen and seen beside what was before, edited further, or deleted."""
    visitors = page.desk.visitors

    def choose(token: str | None, event: gr.SelectData) -> Update:
        found = chosen_of(visitors.visitor(token).edited, event.value)
        update = variations.choice(found)
        if found:
            update[pair] = tuple(str(Path(found[0]).with_name(name)) for name in (BEFORE, AFTER))
            update |= {scales: steps} if (steps := stages_beside(found[0])) else {}
        return update

    def delete(token: str | None, chosen: tuple[str, str]) -> Update:
        visitor = visitors.visitor(token)
        visitor.remove(chosen[0])
        return variations.shown(visitor)

    def further(
        chosen: tuple[str, str], source: str | None, canvas: dict | None, past: list[tuple[str, str]]
    ) -> Update:
        return place.continued(chosen[0], source, canvas, past)

    changed = [part for part in variations.parts if part is not variations.gallery]
    variations.gallery.select(choose, page.token, [*changed, pair, scales], **QUIET)
    variations.delete.click(delete, [page.token, variations.chosen], variations.parts, **QUIET)
    inputs = [variations.chosen, place.source, place.canvas, place.past]
    variations.use.click(errors_as_messages(further, lambda: {place.photo: None}), inputs, place.parts, **QUIET)
