"""Edits scale by scale, with previews: what the Edit tab shows, without its page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from nextscale.editing.apply import Editor, EditStep
from nextscale.editing.config import EditConfig
from nextscale.editing.enlarge import Expansion
from nextscale.pipeline import AUTO
from nextscale.studio.components import uploaded
from nextscale.studio.desk import Desk
from nextscale.studio.figures import Stages
from nextscale.studio.pictures import RegionPreview, fitted, paced

INPAINT, OUTPAINT, WHOLE = "Painted part", "Around the image", "Whole image"
PAINTED = 127
"""Opacity of 255 above which a pixel counts as painted."""
SIDES = ("left", "right", "top", "bottom")
BEFORE, AFTER = "before.png", "after.png"
"""Files beside a finished image: what was edited, before and after."""


@dataclass(frozen=True)
class PaintedImage:
    """What was uploaded and what was painted over it."""

    image: Image.Image
    mask: np.ndarray  # (H, W) float32, 1 where it was painted

    @classmethod
    def of(cls, source: str | Image.Image | None, painted: Image.Image | None = None) -> PaintedImage:
        """Of an image, or its file, and a picture of any size whose strokes cover what is painted.

        Raises ValueError where there is no image, or one that is too large.
        """
        if source is None:
            raise ValueError("there is no image yet: upload one, or take a generated one")
        image = uploaded(source)
        if painted is None:
            return cls(image, np.zeros((image.height, image.width), np.float32))
        strokes = np.asarray(painted.convert("RGBA").getchannel("A").resize(image.size, Image.Resampling.BOX))
        return cls(image, (strokes > PAINTED).astype(np.float32))


@dataclass(frozen=True)
class EditFrame:
    """The page while variations are made, and when they are done; pictures are previews."""

    status: str
    pair: tuple[Image.Image, Image.Image] | None = None
    "Before and after."
    stages: Stages | None = None
    "The steps of the first variation."
    files: list[tuple[str, str]] | None = None
    "Finished images, whole: file and caption."


def edit_live(
    desk: Desk,
    painted: PaintedImage,
    where: str,
    name: str,
    count: int,
    seed: int,
    sides: Sequence[int],
    editing: EditConfig,
    *,
    guidance: float | None = None,
) -> Iterator[EditFrame]:
    """A frame after every scale, with pictures where there is time, and one with the files. Raises ValueError.

    The first variation stands for all until they are done. A last frame shows the scales for which there was no time
    before. Without `guidance`, it is the model's, which `auto` softens.
    """
    began, seeds = time.monotonic(), [seed + number for number in range(count)]
    label: Any = AUTO if name == AUTO else desk.label_of(name)
    editor = editor_of(desk, painted, where, sides, editing)
    steps = desk.pipeline.edit_steps(editor, classes=label, seeds=seeds, guidance=guidance)
    watch, step = Watch(painted.image, sides if where == OUTPAINT else None), None
    for step, seen in paced(steps, desk.previews):
        yield watch.frame(step, seen)
    assert step is not None
    settings = desk.named(name) | {"edit": where, "method": editing.method, "keep_scales": editing.keep_scales}
    settings |= {} if guidance is None else {"guidance": guidance}
    images, files = step.images(), []
    pairs = watch.pairs(step, images)
    for one, image, pair in zip(seeds, images, pairs, strict=True):
        caption = f"seed {one}"
        path = desk.saved(image, settings | {"seed": one})
        files.append((path, caption))
        keep_beside(path, pair)
    plural = "s" if count > 1 else ""
    status = f"{count} variation{plural}, seed {seed}, in {time.monotonic() - began:.2f} s"
    yield EditFrame(status, pairs[0], [*watch.stages], files)
    if any(image is None for _, image in watch.stages):
        yield EditFrame(status, stages=watch.complete())


def editor_of(desk: Desk, painted: PaintedImage, where: str, sides: Sequence[int], editing: EditConfig) -> Editor:
    """The editor of what is asked for. Raises ValueError where nothing is."""
    if where == OUTPAINT:
        return desk.pipeline.outpainter(painted.image, Expansion(**dict(zip(SIDES, sides, strict=True))), editing)
    if where == INPAINT and not painted.mask.any():
        raise ValueError("nothing is painted: paint over what should be made anew, or choose the whole image")
    return desk.pipeline.editor(painted.image, painted.mask if where == INPAINT else None, editing=editing)


class Watch:
    """Previews of an edit: of the region that is edited, and around an image of all of it."""

    def __init__(self, image: Image.Image, sides: Sequence[int] | None) -> None:
        self.image, self.sides = image, sides
        self.preview: RegionPreview | None = None
        self.stages: Stages = []
        "The steps of the first variation in the present region."
        self.sums: list[Tensor] = []
        "What its scales add up to, (1, C, h, w) each."

    def frame(self, step: EditStep, seen: bool) -> EditFrame:
        """The page after a step, with pictures where they are wanted."""
        schedule = step.editor.model.schedule
        if self.preview is None or self.preview.editor is not step.editor:
            self.preview = RegionPreview(step.editor)
            self.stages, self.sums = [(f"{height} x {width}", None) for height, width in schedule], []
        self.sums.append(step.accumulated[:1])
        status = f"Scale {step.scale + 1} of {len(schedule)}"
        status += f", part {step.region + 1} of {step.regions}" if step.regions > 1 else ""
        if not seen:
            return EditFrame(status)
        after = self.preview.after(step.accumulated[:1])[0]
        self.stages[step.scale] = self.stages[step.scale][0], after
        if self.sides is None:
            return EditFrame(status, (self.preview.before(), after), [*self.stages])
        whole = step.canvas.variation(0).put(step.place, next(step.parts())).images()[0]
        return EditFrame(status, (self.before(whole.size), fitted(whole)), [*self.stages])

    def complete(self) -> Stages:
        """All steps of the last region."""
        assert self.preview is not None
        return [
            (label, image or self.preview.after(sums)[0])
            for (label, image), sums in zip(self.stages, self.sums, strict=True)
        ]

    def pairs(self, step: EditStep, images: Sequence[Image.Image]) -> list[tuple[Image.Image, Image.Image]]:
        """Before and after of each finished variation."""
        assert self.preview is not None
        if self.sides is None and step.regions == 1:
            return [(self.preview.before(), after) for after in self.preview.after(step.accumulated)]
        return [(self.before(image.size), fitted(image)) for image in images]

    def before(self, size: tuple[int, int]) -> Image.Image:
        """The image at its place in one of that size, white around it."""
        left, _, top, _ = self.sides or (0, 0, 0, 0)
        sheet = Image.new("RGB", size, "white")
        sheet.paste(self.image, (left, top))
        return fitted(sheet)


def keep_beside(path: str, pair: tuple[Image.Image, Image.Image]) -> None:
    """Keep what was edited, before and after, beside the finished image."""
    for name, picture in zip((BEFORE, AFTER), pair, strict=True):
        picture.save(Path(path).with_name(name), compress_level=1)
