"""The Edit tab: paint a mask, in-paint, out-paint, change the class, keep the coarse scales."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS
from nextscale.pipeline import AUTO
from nextscale.studio.components import (
    SHOWN,
    PaintedUpload,
    painted_upload,
    shown_gallery,
    shown_picture,
    uploaded,
    wanted_field,
)
from nextscale.studio.desk import Desk, seed_of
from nextscale.studio.events import QUIET, PageJobs
from nextscale.studio.jobs import Job, Update
from nextscale.studio.pictures import RegionPreview, fitted, paced, strip

INPAINT, OUTPAINT, WHOLE = "Painted part", "Around the image", "Whole image"
SEEN = 31
"""Opacity of 255 above which a stroke counts: strokes are half transparent, to show what is below."""
SIDES = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class PaintedImage:
    """What was uploaded and what was painted over it."""

    image: Image.Image
    mask: np.ndarray  # (H, W) float32, 1 where it was painted

    @classmethod
    def of(cls, value: dict[str, Any] | None) -> PaintedImage:
        """Of `background`, an image or its file, and `layers`, images of any size whose strokes cover what is painted.

        Raises ValueError where there is no image, or one that is too large.
        """
        background = (value or {}).get("background")
        if background is None:
            raise ValueError("there is no image yet: upload one, or take a generated one")
        image = uploaded(background)
        mask = np.zeros((image.height, image.width), dtype=np.float32)
        for layer in (value or {}).get("layers") or ():
            painted = np.asarray(layer.convert("RGBA").getchannel("A").resize(image.size))
            mask = np.maximum(mask, (painted > SEEN).astype(np.float32))
        return cls(image, mask)


@dataclass(frozen=True)
class EditFrame:
    """The page while variations are made, and when they are done; pictures are previews."""

    status: str
    pair: tuple[Image.Image, Image.Image] | None = None
    "Before and after."
    strip: Image.Image | None = None
    variations: tuple[Image.Image, ...] = ()
    files: list[tuple[str, str]] | None = None
    "Finished images, whole: file and caption."


Edited = Generator[EditFrame, None, tuple[list[Image.Image], EditFrame]]
"""A frame after every step; at the end the finished images, whole, and the last frame."""


def edit_live(
    desk: Desk,
    painted: PaintedImage,
    where: str,
    name: str,
    count: int,
    seed: int,
    sides: Sequence[int],
    editing: EditConfig,
) -> Iterator[EditFrame]:
    """A frame after every scale (after every variation around an image), with pictures where there is time.

    Raises ValueError.
    """
    began, seeds = time.monotonic(), [seed + number for number in range(count)]
    label: Any = AUTO if name == AUTO else desk.label_of(name)
    if where == OUTPAINT:
        images, last = yield from outpaint_live(desk, painted.image, label, seeds, sides, editing)
    else:
        images, last = yield from inpaint_live(desk, painted, where, label, seeds, editing)
    settings = desk.named(name) | {"edit": where, "method": editing.method, "keep_scales": editing.keep_scales}
    files = [
        (desk.saved(image, settings | {"seed": one}), f"seed {one}") for image, one in zip(images, seeds, strict=True)
    ]
    plural = "s" if count > 1 else ""
    status = f"{count} variation{plural}, seed {seed}, in {time.monotonic() - began:.2f} s"
    yield replace(last, status=status, files=files)


def outpaint_live(
    desk: Desk, image: Image.Image, label: Any, seeds: list[int], sides: Sequence[int], editing: EditConfig
) -> Edited:
    """A larger image around an image; a frame after every variation."""
    added = dict(zip(SIDES, sides, strict=True))
    images: list[Image.Image] = []
    frame = EditFrame("")
    for seed in seeds:
        images += desk.pipeline.outpaint(image, **added, classes=label, seeds=[seed], editing=editing).images
        variations = (*frame.variations, fitted(images[-1]))
        pair = frame.pair or (fitted(padded(image, images[0].size, (added["left"], added["top"]))), variations[0])
        frame = EditFrame(f"Variation {len(images)} of {len(seeds)}", pair, variations=variations)
        yield frame
    return images, frame


def inpaint_live(
    desk: Desk, painted: PaintedImage, where: str, label: Any, seeds: list[int], editing: EditConfig
) -> Edited:
    """The painted part, or the whole image; a frame after every scale. The first variation stands for all.

    A preview of a variation takes as long as sampling it.
    """
    if where == INPAINT and not painted.mask.any():
        raise ValueError("nothing is painted: paint over what should be made anew, or choose the whole image")
    editor = desk.pipeline.editor(painted.image, painted.mask if where == INPAINT else None, editing=editing)
    step, seen, preview, frames = None, False, None, []
    for step, seen in paced(desk.pipeline.edit_steps(editor, classes=label, seeds=seeds), desk.previews):
        if preview is None or preview.editor is not step.editor:
            preview, frames = RegionPreview(step.editor), []
        status = f"Scale {step.scale + 1} of {len(desk.pipeline.schedule)}"
        status += f", part {step.region + 1} of {step.regions}" if step.regions > 1 else ""
        if seen:
            frames.append(preview.after(step.accumulated[:1]))
            yield EditFrame(status, (preview.before(), frames[-1][0]), strip(frames))
        else:
            yield EditFrame(status)
    assert step is not None and preview is not None
    if not seen:
        frames.append(preview.after(step.accumulated[:1]))
    images = step.images()
    if step.regions == 1:
        before, variations = preview.before(), preview.after(step.accumulated)
    else:
        before, variations = fitted(painted.image), [fitted(image) for image in images]
    return images, EditFrame("", (before, variations[0]), strip(frames), tuple(variations))


def padded(image: Image.Image, size: tuple[int, int], place: tuple[int, int]) -> Image.Image:
    """An image at a place of a larger white one."""
    sheet = Image.new("RGB", size, "white")
    sheet.paste(image, place)
    return sheet


def edit_tab(page: PageJobs) -> PaintedUpload:
    """Canvas and controls at the left, before and after at the right; returns where images are opened."""
    desk = page.desk
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            place = painted_upload()
            controls = edit_controls(desk)
            with gr.Row():
                start = gr.Button("Edit", variant="primary", elem_id="edit-start")
                stop = gr.Button("Stop", elem_id="edit-stop", interactive=False)
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("Before and after: the part that is edited", elem_classes="title")
            pair = gr.ImageSlider(
                label="Before and after",
                type="pil",
                elem_id="edit-pair",
                slider_position=15,
                buttons=["fullscreen"],
                **SHOWN,
            )
            status = gr.Markdown("Ready.", elem_id="edit-status")
            scales = shown_picture("Scale by scale, the first variation", wide=True, elem_id="edit-strip")
            gallery = shown_gallery("Variations of that part", columns=4, elem_id="edit-gallery")
            title = "Whole images to download, as PNG"
            files = gr.File(label=title, file_count="multiple", elem_id="edit-files", interactive=False, visible=False)

    def work(job: Job, source: str | None, value: dict | None, *values: Any) -> Iterator[Update]:
        where, name, keep, count, seed, method, feather, *sides = values
        kept = 0 if where == OUTPAINT else int(keep)
        editing = EditConfig(method=method, keep_scales=kept, feather=int(feather))
        painted = PaintedImage.of((value or {}) | {"background": source})
        chosen = [int(side) for side in sides]
        for frame in edit_live(desk, painted, where, name, int(count), seed_of(seed, False), chosen, editing):
            update: Update = {status: frame.status}
            if frame.pair:
                update[pair] = tuple(job.shown(one) for one in frame.pair)
            if frame.strip:
                update[scales] = job.shown(frame.strip)
            if frame.files:
                captions = [caption for _, caption in frame.files]
                shown = [job.shown(one) for one in frame.variations]
                update[gallery] = gr.Gallery(value=list(zip(shown, captions, strict=True)), selected_index=None)
                update[files] = gr.File(value=[path for path, _ in frame.files], visible=True)
            yield update

    inputs = [place.source, place.canvas, *controls]
    page.job("Edit", start, stop, status, work, inputs, [pair, scales, gallery, files])
    return place


def edit_controls(desk: Desk) -> list[Any]:
    """Where, class or prompt, scales kept, number, seed, method, feather, and pixels at each side."""
    where = gr.Radio([INPAINT, OUTPAINT, WHOLE], value=INPAINT, label="What is made anew")
    name = wanted_field(desk, also=[AUTO], info="auto: what the rest looks like.")
    with gr.Group(visible=False) as around:
        with gr.Row():
            left = gr.Slider(0, 256, value=32, step=1, label="Left", min_width=110)
            right = gr.Slider(0, 256, value=32, step=1, label="Right", min_width=110)
        with gr.Row():
            top = gr.Slider(0, 256, value=0, step=1, label="Above", min_width=110)
            bottom = gr.Slider(0, 256, value=0, step=1, label="Below", min_width=110)
    hint = "First scales taken over from the image: more keep more of its composition."
    keep = gr.Slider(0, len(desk.pipeline.schedule), value=0, step=1, label="Scales kept", info=hint)
    count = gr.Slider(1, 8, value=2, step=1, label="Variations")
    seed = gr.Number(0, label="Seed", info="Of the first variation; the next ones count on.")
    with gr.Accordion("More", open=False):
        method = gr.Dropdown(list(METHODS), value=EditConfig().method, label="Method")
        feather = gr.Slider(0, 32, value=EditConfig().feather, step=1, label="Feather, pixels")

    def arranged(chosen: str) -> tuple[Any, Any]:
        return gr.update(visible=chosen == OUTPAINT), gr.update(visible=chosen != OUTPAINT)

    where.change(arranged, where, [around, keep], queue=False, **QUIET)
    return [where, name, keep, count, seed, method, feather, left, right, top, bottom]
