"""The Edit tab: paint a mask, in-paint, out-paint, change the class, keep the coarse scales."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageOps

from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS
from nextscale.pipeline import AUTO
from nextscale.studio.desk import Desk, large, require_size, seed_of, strip
from nextscale.studio.errors import told
from nextscale.studio.pictures import shown_gallery, shown_picture
from nextscale.studio.queue import MODEL
from nextscale.studio.uploads import checked

INPAINT, OUTPAINT, WHOLE = "Painted part", "Around the image", "Whole image"


@dataclass(frozen=True)
class Canvas:
    """What was uploaded and what was painted over it."""

    image: Image.Image
    mask: np.ndarray  # (H, W) float32, 1 where it was painted

    @classmethod
    def of(cls, value: dict[str, Any] | None) -> Canvas:
        """From the image editor. Raises ValueError where there is no image, or one that is too large."""
        background = (value or {}).get("background")
        if background is None:
            raise ValueError("there is no image yet: upload one, or take a generated one")
        require_size(background)
        image = ImageOps.exif_transpose(background).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        mask = np.zeros((image.height, image.width), dtype=np.float32)
        for layer in (value or {}).get("layers") or ():
            painted = np.asarray(layer.convert("RGBA").getchannel("A").resize(image.size))
            mask = np.maximum(mask, (painted > 127).astype(np.float32))
        return cls(Image.alpha_composite(white, image).convert("RGB"), mask)


@dataclass(frozen=True)
class EditFrame:
    """The page while variations are made, and when they are done."""

    pair: tuple[Image.Image, Image.Image]
    strip: Image.Image | None
    status: str
    files: list[tuple[str, str]] | None = None


def edit_live(
    desk: Desk, canvas: Canvas, where: str, name: str, count: int, seed: int, sides: Sequence[int], editing: EditConfig
) -> Iterator[EditFrame]:
    """A frame after every scale (after every variation around an image). Raises ValueError."""
    seeds = [seed + number for number in range(count)]
    label: Any = AUTO if name == AUTO else desk.label_of(name)
    began = time.monotonic()
    if where == OUTPAINT:
        left, right, top, bottom = sides
        images: list[Image.Image] = []
        for one in seeds:
            images += desk.pipeline.outpaint(
                canvas.image, left=left, right=right, top=top, bottom=bottom, classes=label, seeds=[one],
                editing=editing,
            ).images  # fmt: skip
            yield EditFrame(pair_of(canvas.image, images[-1]), None, f"Variation {len(images)} of {count}")
        shown = None
    else:
        if where == INPAINT and not canvas.mask.any():
            raise ValueError("nothing is painted: paint over what should be made anew, or choose the whole image")
        mask = canvas.mask if where == INPAINT else None
        editor = desk.pipeline.editor(canvas.image, mask, editing=editing)
        frames = []
        for step in desk.pipeline.edit_steps(editor, classes=label, seeds=seeds):
            frames.append(step.images())
            status = f"Scale {step.scale + 1} of {len(desk.pipeline.schedule)}"
            yield EditFrame(pair_of(canvas.image, frames[-1][0]), strip(frames), status)
        images, shown = frames[-1], strip(frames)
    settings = {"class": name, "edit": where, "method": editing.method, "keep_scales": editing.keep_scales}
    files = [
        (desk.saved(image, settings | {"seed": one}), f"seed {one}") for image, one in zip(images, seeds, strict=True)
    ]
    status = f"{count} variation{'s' if count > 1 else ''}, seed {seed}, in {time.monotonic() - began:.2f} s"
    yield EditFrame(pair_of(canvas.image, images[0]), shown, status, files)


def pair_of(before: Image.Image, after: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Both at one size, the original in the middle where the result is larger."""
    if before.size != after.size:
        padded = Image.new("RGB", after.size, "white")
        padded.paste(before, ((after.width - before.width) // 2, (after.height - before.height) // 2))
        before = padded
    return large(before), large(after)


def edit_tab(desk: Desk) -> gr.ImageEditor:
    """Canvas and controls at the left, before and after at the right; returns the canvas."""
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("Image: paint over what should be made anew", elem_classes="title")
            canvas = checked(gr.ImageEditor(
                label="Image", show_label=False, type="pil", image_mode="RGBA", height=420,
                sources=["upload", "clipboard"], transforms=(), layers=False, elem_id="edit-canvas", format="png",
                brush=gr.Brush(colors=["#ff3366"], color_mode="fixed", default_size=12),
            ))  # fmt: skip
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
                seed = gr.Number(0, precision=0, minimum=0, label="Seed")
                method = gr.Dropdown(list(METHODS), value=EditConfig().method, label="Method")
                feather = gr.Slider(0, 32, value=EditConfig().feather, step=1, label="Feather, pixels")
            with gr.Row():
                start = gr.Button("Edit", variant="primary", elem_id="edit-start")
                stop = gr.Button("Stop")
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("Before and after", elem_classes="title")
            pair = gr.ImageSlider(
                label="Before and after", show_label=False, type="pil", format="png", elem_id="edit-pair"
            )
            status = gr.Markdown("Ready.", elem_id="edit-status")
            scales = shown_picture("Scale by scale")
            gallery = shown_gallery("Variations", columns=4, elem_id="edit-gallery")
    where.change(
        lambda chosen: gr.update(visible=chosen == OUTPAINT), where, around, queue=False, show_progress="hidden"
    )

    @told
    def run(
        value: dict, where: str, name: str, keep: float, count: float, seed: float, method: str, feather: float,
        *sides: float,
    ) -> Iterator[tuple]:  # fmt: skip
        kept = 0 if where == OUTPAINT else int(keep)
        editing = EditConfig(method=method, keep_scales=kept, feather=int(feather))
        chosen = [int(side) for side in sides]
        for frame in edit_live(desk, Canvas.of(value), where, name, int(count), seed_of(seed, False), chosen, editing):
            yield frame.pair, frame.strip, frame.status, frame.files if frame.files else gr.skip()

    event = start.click(
        run, [canvas, where, name, keep, count, seed, method, feather, left, right, top, bottom],
        [pair, scales, status, gallery], concurrency_id=MODEL, concurrency_limit=1, api_name="edit",
    )  # fmt: skip
    stop.click(lambda: "Stopped.", None, status, cancels=[event], queue=False)
    return canvas
