"""The Edit tab: paint a mask, in-paint, out-paint, change the class, keep the coarse scales."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS
from nextscale.pipeline import AUTO
from nextscale.studio.buttons import Bench
from nextscale.studio.desk import Desk, seed_of
from nextscale.studio.easel import Easel, easel
from nextscale.studio.jobs import Job, Update
from nextscale.studio.pace import paced
from nextscale.studio.pictures import fitted, shown_gallery, shown_picture, strip
from nextscale.studio.region_preview import RegionPreview
from nextscale.studio.uploads import uploaded

INPAINT, OUTPAINT, WHOLE = "Painted part", "Around the image", "Whole image"


@dataclass(frozen=True)
class Canvas:
    """What was uploaded and what was painted over it."""

    image: Image.Image
    mask: np.ndarray  # (H, W) float32, 1 where it was painted

    @classmethod
    def of(cls, value: dict[str, Any] | None) -> Canvas:
        """Of `background`, an image or its file, and `layers`, images of any size that are opaque where it is painted.

        Raises ValueError where there is no image, or one that is too large.
        """
        background = (value or {}).get("background")
        if background is None:
            raise ValueError("there is no image yet: upload one, or take a generated one")
        image = uploaded(background)
        mask = np.zeros((image.height, image.width), dtype=np.float32)
        for layer in (value or {}).get("layers") or ():
            painted = np.asarray(layer.convert("RGBA").getchannel("A").resize(image.size))
            mask = np.maximum(mask, (painted > 127).astype(np.float32))
        return cls(image, mask)


@dataclass(frozen=True)
class EditFrame:
    """The page while variations are made, and when they are done; pictures are previews."""

    status: str
    pair: tuple[Image.Image, Image.Image] | None = None
    strip: Image.Image | None = None
    variations: tuple[Image.Image, ...] = ()
    files: list[tuple[str, str]] | None = None
    "Finished images, whole: file and caption."


def edit_live(
    desk: Desk, canvas: Canvas, where: str, name: str, count: int, seed: int, sides: Sequence[int], editing: EditConfig
) -> Iterator[EditFrame]:
    """A frame after every scale (after every variation around an image), with pictures where there is time.

    Raises ValueError.
    """
    seeds = [seed + number for number in range(count)]
    label: Any = AUTO if name == AUTO else desk.label_of(name)
    settings = {"class": name, "edit": where, "method": editing.method, "keep_scales": editing.keep_scales}
    began = time.monotonic()
    files: list[tuple[str, str]] = []

    def keep(image: Image.Image) -> None:
        one = seeds[len(files)]
        files.append((desk.saved(image, settings | {"seed": one}), f"seed {one}"))

    if where == OUTPAINT:
        left, right, top, bottom = sides
        variations: list[Image.Image] = []
        pair, shown = None, None
        for one in seeds:
            (image,) = desk.pipeline.outpaint(
                canvas.image, left=left, right=right, top=top, bottom=bottom, classes=label, seeds=[one],
                editing=editing,
            ).images  # fmt: skip
            keep(image)
            variations.append(fitted(image))
            pair = pair or (fitted(padded(canvas.image, image.size, (left, top))), variations[0])
            yield EditFrame(f"Variation {len(files)} of {count}", pair, variations=tuple(variations))
    else:
        if where == INPAINT and not canvas.mask.any():
            raise ValueError("nothing is painted: paint over what should be made anew, or choose the whole image")
        mask = canvas.mask if where == INPAINT else None
        editor = desk.pipeline.editor(canvas.image, mask, editing=editing)
        step, seen, preview, frames = None, False, None, []
        for step, seen in paced(desk.pipeline.edit_steps(editor, classes=label, seeds=seeds), desk.previews):
            if preview is None or preview.editor is not step.editor:
                preview, frames = RegionPreview(step.editor), []
            status = f"Scale {step.scale + 1} of {len(desk.pipeline.schedule)}"
            status += f", part {step.region + 1} of {step.regions}" if step.regions > 1 else ""
            if seen:  # the first variation stands for all: each costs as much to decode as to sample
                frames.append(preview.after(step.accumulated[:1]))
                yield EditFrame(status, (preview.before(), frames[-1][0]), strip(frames))
            else:
                yield EditFrame(status)
        assert step is not None and preview is not None
        images = step.images()
        for image in images:
            keep(image)
        if not seen:
            frames.append(preview.after(step.accumulated[:1]))
        if step.regions == 1:
            before, variations = preview.before(), preview.after(step.accumulated)
        else:
            before, variations = fitted(canvas.image), [fitted(image) for image in images]
        pair, shown = (before, variations[0]), strip(frames)
    plural = "s" if count > 1 else ""
    status = f"{count} variation{plural}, seed {seed}, in {time.monotonic() - began:.2f} s"
    yield EditFrame(status, pair, shown, tuple(variations), files)


def padded(image: Image.Image, size: tuple[int, int], place: tuple[int, int]) -> Image.Image:
    """An image at a place of a white one of another size."""
    sheet = Image.new("RGB", size, "white")
    sheet.paste(image, place)
    return sheet


def edit_tab(bench: Bench) -> Easel:
    """Canvas and controls at the left, before and after at the right; returns where images are opened."""
    desk = bench.desk
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            place = easel()
            where = gr.Radio([INPAINT, OUTPAINT, WHOLE], value=INPAINT, label="What is made anew")
            name = gr.Dropdown(
                [AUTO, *desk.class_choices], value=AUTO, label="Class", info="auto: what the rest looks like."
            )
            with gr.Group(visible=False) as around:
                with gr.Row():
                    left = gr.Slider(0, 256, value=32, step=1, label="Left", min_width=110)
                    right = gr.Slider(0, 256, value=32, step=1, label="Right", min_width=110)
                with gr.Row():
                    top = gr.Slider(0, 256, value=0, step=1, label="Above", min_width=110)
                    bottom = gr.Slider(0, 256, value=0, step=1, label="Below", min_width=110)
            keep = gr.Slider(
                0, len(desk.pipeline.schedule), value=0, step=1, label="Scales kept",
                info="First scales taken over from the image: more keep more of its composition.",
            )  # fmt: skip
            count = gr.Slider(1, 8, value=2, step=1, label="Variations")
            with gr.Accordion("More", open=False):
                seed = gr.Number(0, label="Seed")
                method = gr.Dropdown(list(METHODS), value=EditConfig().method, label="Method")
                feather = gr.Slider(0, 32, value=EditConfig().feather, step=1, label="Feather, pixels")
            with gr.Row():
                start = gr.Button("Edit", variant="primary", elem_id="edit-start")
                stop = gr.Button("Stop", elem_id="edit-stop", interactive=False)
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("Before and after: the part that is edited", elem_classes="title")
            pair = gr.ImageSlider(
                label="Before and after", show_label=False, type="pil", format="png", elem_id="edit-pair",
                interactive=False, buttons=["fullscreen"],
            )  # fmt: skip
            status = gr.Markdown("Ready.", elem_id="edit-status")
            scales = shown_picture("Scale by scale, the first variation", wide=True, elem_id="edit-strip")
            gallery = shown_gallery("Variations of that part", columns=4, elem_id="edit-gallery")
            files = gr.File(
                label="Whole images to download, as PNG", file_count="multiple", interactive=False, visible=False,
                elem_id="edit-files",
            )  # fmt: skip
    where.change(
        lambda chosen: (gr.update(visible=chosen == OUTPAINT), gr.update(visible=chosen != OUTPAINT)),
        where, [around, keep], queue=False, show_progress="hidden", api_visibility="private",
    )  # fmt: skip

    def work(
        job: Job, source: str | None, value: dict | None, where: str, name: str, keep: float, count: float,
        seed: float, method: str, feather: float, *sides: float,
    ) -> Iterator[Update]:  # fmt: skip
        kept = 0 if where == OUTPAINT else int(keep)
        editing = EditConfig(method=method, keep_scales=kept, feather=int(feather))
        canvas = Canvas.of((value or {}) | {"background": source})
        chosen = [int(side) for side in sides]
        for frame in edit_live(desk, canvas, where, name, int(count), seed_of(seed, False), chosen, editing):
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

    bench.job(
        "Edit", start, stop, status, work,
        [place.source, place.canvas, where, name, keep, count, seed, method, feather, left, right, top, bottom],
        [pair, scales, gallery, files],
    )  # fmt: skip
    return place
