"""One edit: regions around a mask, their scales sampled under a hook, and the results put back.

Shapes: B variations of one image, (H, W) pixels, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.data.decode import center_crop
from nextscale.editing.canvas import Canvas
from nextscale.editing.composite import composite
from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS, KeepScales
from nextscale.editing.masks import filled
from nextscale.editing.outpaint import Expansion, window_size, windows
from nextscale.editing.plan import pieces, plan
from nextscale.editing.regions import Region, covered, resized
from nextscale.families.var import VAR
from nextscale.pyramid import ScaleSchedule
from nextscale.sampling.likelihood import class_log_likelihoods
from nextscale.sampling.next_scale import sample_scales
from nextscale.sampling.step import HookChain, SamplingConfig, SamplingHook, ScaleSample
from nextscale.tokenizer.residual import downsample
from nextscale.tokenizer.vqvae import VQVAE

MANY = 100
"""Classes above which they are not all tried for the likeliest: edits are then unconditional."""


class RegionEditor:
    """One region of an image, ready to be edited with any class and seed."""

    @torch.no_grad()
    def __init__(
        self, model: VAR, tokenizer: VQVAE, image: Tensor, mask: Tensor, config: EditConfig, region: Region
    ) -> None:
        """`image` (B, 3, H, W) in [-1, 1], one for all variations or one for each; `mask` (H, W), 1 where it is
        regenerated; the region is what the model sees of them and may reach beyond.
        """
        self.model, self.tokenizer, self.config, self.region = model, tokenizer, config, region
        self.image, self.mask = image, mask
        size = tokenizer.config.image_size
        there = region.cut(torch.ones_like(mask)) > 0
        inside = region.cut(mask, fill=1.0)  # what lies beyond the image's edges is made up, and dropped
        known = (covered(inside, size) == 0)[None, None]
        self.cut = resized(filled(region.cut(image), there[None, None]), size)
        # What the hook's method sees: the hole filled from around it, so that nothing of what was there leaks.
        self.shown = filled(self.cut, known)
        self.kept = downsample(known.float(), tokenizer.schedule.final)

    @property
    def share(self) -> float:
        """How much of what the model sees is made anew, 0 to 1."""
        return 1 - float(self.kept.mean())

    def softened(self, sampling: SamplingConfig) -> SamplingConfig:
        """Settings whose guidance counts by the square of the share that is made anew.

        What is kept tells the class by itself, the more of it there is.
        """
        return replace(sampling, guidance=sampling.guidance * self.share**2)

    def known_part(self) -> tuple[Tensor, Tensor]:
        """An image (B, 3, H, W) of the model's size and the share of each latent (1, 1, h, w) that tells its class."""
        if self.config.keep_scales and not bool((self.kept > 0).any()):
            return self.cut, torch.ones_like(self.kept)
        return self.shown, self.kept

    def hook(self) -> SamplingHook | None:
        """A new hook; none where nothing is kept."""
        hooks: list[SamplingHook] = []
        if bool((self.kept > 0).any()):
            hooks.append(METHODS[self.config.method](self.tokenizer, self.shown, self.kept))
        if self.config.keep_scales:
            hooks.append(KeepScales(self.tokenizer, self.cut, self.config.keep_scales))
        return HookChain(*hooks) if hooks else None

    def samples(
        self, classes: Tensor, generators: Sequence[torch.Generator], sampling: SamplingConfig
    ) -> Iterator[ScaleSample]:
        """Sample variations of classes (B,), one generator each, a scale at a time."""
        return sample_scales(
            self.model, self.tokenizer.quantizer, classes, generators=generators, config=sampling, hook=self.hook()
        )

    def finish(self, accumulated: Tensor, variation: int = 0) -> Tensor:
        """The image (1, 3, H, W) with what was accumulated for one variation, (1, C, h, w), in the hole."""
        image = self.image[min(variation, len(self.image) - 1)][None]
        generated = self.tokenizer.decode_features(accumulated.to(image.device))
        whole = (self.region.height, self.region.width)
        before, hole = self.region.cut(image), self.region.cut(self.mask, fill=1.0)[None, None]
        part = composite(before, resized(generated, whole), hole, feather=self.config.feather)
        return self.region.paste(image, part)


@dataclass(frozen=True)
class EditStep:
    """One finished scale of one region of an edit."""

    scale: int
    tokens: Tensor  # (B, h_k, w_k) int64
    accumulated: Tensor  # (B, C, h, w) float32
    editor: RegionEditor
    place: Region  # where the editor's image lies in the whole one
    canvas: Canvas  # as the regions before left it
    region: int = 0
    "Which region this is, from 0."
    regions: int = 1

    @torch.no_grad()
    def finished(self) -> Canvas:
        """The canvas with the region as it stands after this scale."""
        rows = enumerate(self.accumulated.split(1))
        return self.canvas.put(self.place, torch.cat([self.editor.finish(one, row) for row, one in rows]))

    @torch.no_grad()
    def images(self) -> list[Image.Image]:
        """The whole images as they stand after this scale, one per variation."""
        rows = enumerate(self.accumulated.split(1))  # one at a time: a region may be as large as the image
        return [
            image
            for row, one in rows
            for image in self.canvas.variation(row).put(self.place, self.editor.finish(one, row)).images()
        ]


class Editor:
    """An image and a mask, ready to be edited with any class and seed: region after region, mostly one."""

    def __init__(
        self,
        model: VAR,
        tokenizer: VQVAE,
        canvas: Canvas,
        mask: Tensor,
        config: EditConfig,
        regions: Sequence[Region] | None = None,
    ) -> None:
        """`mask` (H, W), 1 where the image is regenerated.

        The regions that the model sees are chosen around the mask unless they are given. Raises ValueError for more
        scales to keep than there are.
        """
        if config.keep_scales > len(model.schedule):
            raise ValueError(f"keep_scales is {config.keep_scales}, the model has {len(model.schedule)} scales")
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.canvas, self.mask = canvas, mask
        self.pieces = pieces(mask, plan(mask, tokenizer.config.image_size) if regions is None else regions)
        self.first = self.part(0, canvas)

    def part(self, number: int, canvas: Canvas) -> RegionEditor:
        """The editor of a region of the canvas as the regions before left it."""
        region, hole = self.pieces[number]
        place = self.place(number)
        image, device = canvas.cut(place), self.model.device
        return RegionEditor(
            self.model, self.tokenizer, image.to(device), hole.to(device), self.config, region.seen_from(place)
        )

    def place(self, number: int) -> Region:
        """What of a region lies in the image."""
        return self.pieces[number][0].inside((self.mask.shape[0], self.mask.shape[1]))

    def known_part(self) -> tuple[Tensor, Tensor]:
        """That of the first region, which tells the class."""
        return self.first.known_part()

    def steps(
        self,
        classes: Tensor,
        generators: Sequence[torch.Generator],
        sampling: SamplingConfig,
        *,
        soften: bool = False,
    ) -> Iterator[EditStep]:
        """Variations of classes (B,), one generator each, a scale at a time, region after region.

        With `soften`, guidance counts as `RegionEditor.softened` has it.
        """
        canvas = self.canvas
        for number in range(len(self.pieces)):
            editor = self.part(number, canvas) if number else self.first
            settled = editor.softened(sampling) if soften else sampling
            step = None
            for sample in editor.samples(classes, generators, settled):
                step = EditStep(
                    sample.scale, sample.tokens, sample.accumulated, editor, self.place(number), canvas, number,
                    len(self.pieces),
                )  # fmt: skip
                yield step
            if step is not None and number + 1 < len(self.pieces):
                canvas = step.finished()


def likely_classes(model: VAR, tokenizer: VQVAE, images: Tensor, kept: Tensor) -> Tensor:
    """The class under which the tokens of each image (B, 3, H, W) are likeliest, each by its share of `kept`, (B,).

    `kept` (B or 1, 1, h, w). The unconditional class where nothing is kept, and for no or more than `MANY` classes.
    """
    if not 0 < model.config.classes <= MANY or not bool((kept > 0).any()):
        return torch.full((len(images),), model.config.unconditional, device=images.device)
    shares = torch.cat([downsample(kept, size).flatten(1) for size in tokenizer.schedule], dim=1)
    table = class_log_likelihoods(model, tokenizer.quantizer, tokenizer.encode(images), shares)
    return table.argmax(dim=1).to(images.device)


def outpainting(model: VAR, tokenizer: VQVAE, image: Image.Image, expansion: Expansion, config: EditConfig) -> Editor:
    """An image ready to get new pixels around it, window by window."""
    pixels, mask = expansion.canvas(Canvas.of(image).cut(Region(0, 0, image.height, image.width)))
    height, width = mask.shape
    empty = Canvas(np.zeros((height, width, 3), np.uint8)).put(Region(0, 0, height, width), pixels)
    size = window_size((image.height, image.width), tokenizer.config.image_size)
    return Editor(model, tokenizer, empty, mask, config, list(windows(mask, size)))


def enlarged(picture: Image.Image, model: tuple[int, int], schedule: ScaleSchedule) -> tuple[Image.Image, int]:
    """A small image at the model's size, and how many scales have maps that it resolves, at least the first.

    Raises ValueError for an image that is not smaller than the model's.
    """
    height, width = model
    share = max(picture.height / height, picture.width / width)
    if share >= 1:
        raise ValueError(
            f"the image has {picture.width} x {picture.height} pixels already; upscaling makes those of less than "
            f"{width} x {height} as large as that"
        )
    known = sum(size[0] / schedule.final[0] <= share for size in schedule)
    return Image.fromarray(center_crop(picture, model)), max(1, known)
