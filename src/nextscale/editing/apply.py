"""An edit: each region around the mask is sampled under a hook, and the result put back into the image.

Shapes: B variations of one image, C latent channels, (H, W) pixels, (h, w) the latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from nextscale.conditions import Conditions
from nextscale.editing.canvas import Canvas, composite, filled
from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS, KeepScales
from nextscale.editing.regions import Region, covered, holes_of, plan, resized, size_of
from nextscale.families.var import VAR
from nextscale.sampling.likelihood import class_log_likelihoods
from nextscale.sampling.next_scale import sample_scales
from nextscale.sampling.noise import TOKENS
from nextscale.sampling.step import HookChain, SamplingConfig, SamplingHook, ScaleSample
from nextscale.tokenizer.residual import downsample
from nextscale.tokenizer.vqvae import VQVAE

MANY = 100
"""Most classes among which the likeliest is looked for; edits of models with more are unconditional."""


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
        in_image = region.cut(torch.ones_like(mask)) > 0
        self.hole = region.cut(mask, fill=1.0)  # pixels beyond the image's edges are regenerated too, and dropped
        known = (covered(self.hole, size) == 0)[None, None]
        self.cut = resized(filled(region.cut(image), in_image[None, None]), size)
        # What the method encodes: the hole is filled from around it, so that nothing of its content leaks.
        self.shown = filled(self.cut, known)
        self.kept = downsample(known.float(), tokenizer.schedule.final)
        self.keeps_some = bool((self.kept > 0).any())

    @property
    def share(self) -> float:
        """Share of the region that is regenerated, 0 to 1."""
        return 1 - float(self.kept.mean())

    def softened(self, sampling: SamplingConfig) -> SamplingConfig:
        """Settings with guidance times the squared share that is regenerated: what is kept tells the class already."""
        return replace(sampling, guidance=sampling.guidance * self.share**2)

    def known_part(self) -> tuple[Tensor, Tensor]:
        """An image (B, 3, H, W) of the model's size and the share of each latent (1, 1, h, w) that tells its class."""
        if self.config.keep_scales and not self.keeps_some:
            return self.cut, torch.ones_like(self.kept)
        return self.shown, self.kept

    def hook(self) -> SamplingHook | None:
        """A new hook; none where nothing is kept."""
        hooks: list[SamplingHook] = []
        if self.keeps_some:
            hooks.append(METHODS[self.config.method](self.tokenizer, self.shown, self.kept))
        if self.config.keep_scales:
            hooks.append(KeepScales(self.tokenizer, self.cut, self.config.keep_scales))
        return HookChain(*hooks) if hooks else None

    def samples(
        self, classes: Tensor | Conditions, seeds: Tensor, sampling: SamplingConfig, *, stream: int = TOKENS
    ) -> Iterator[ScaleSample]:
        """Sample variations of conditions, or classes, and seeds, (B,) each, a scale at a time."""
        quantizer, hook = self.tokenizer.quantizer, self.hook()
        return sample_scales(self.model, quantizer, classes, seeds=seeds, config=sampling, stream=stream, hook=hook)

    def finish(self, accumulated: Tensor, variation: int = 0) -> Tensor:
        """The image (1, 3, H, W) of one variation, its hole decoded from what was accumulated, (1, C, h, w)."""
        image = self.image[min(variation, len(self.image) - 1)][None]
        generated = self.tokenizer.decode_features(accumulated.to(image.device))
        generated = resized(generated, (self.region.height, self.region.width))
        hole, feather = self.hole[None, None], self.config.feather
        return self.region.paste(image, composite(self.region.cut(image), generated, hole, feather=feather))


@dataclass(frozen=True)
class EditStep:
    """One finished scale of one region of an edit."""

    scale: int
    tokens: Tensor  # (B, h_k, w_k) int64
    accumulated: Tensor  # (B, C, h, w) float32
    editor: RegionEditor
    place: Region  # where the editor's image lies in the edited one
    canvas: Canvas  # as the regions before left it
    region: int = 0
    "Number of the region, from 0."
    regions: int = 1

    def parts(self) -> Iterator[Tensor]:
        """The region of each variation after this scale, (1, 3, H, W): one at a time, as it may be a whole image."""
        return (self.editor.finish(one, row) for row, one in enumerate(self.accumulated.split(1)))

    @torch.no_grad()
    def finished(self) -> Canvas:
        """The canvas with the region as it is after this scale."""
        return self.canvas.put(self.place, torch.cat(list(self.parts())))

    @torch.no_grad()
    def images(self) -> list[Image.Image]:
        """The edited images as they are after this scale, one per variation."""
        return [self.canvas.variation(row).put(self.place, part).images()[0] for row, part in enumerate(self.parts())]


class Editor:
    """An image and a mask, ready to be edited with any class and seed, region after region (mostly one)."""

    def __init__(
        self,
        model: VAR,
        tokenizer: VQVAE,
        canvas: Canvas,
        mask: Tensor,
        config: EditConfig,
        regions: Sequence[Region] | None = None,
        known: Tensor | None = None,
    ) -> None:
        """`mask` (H, W), 1 where the image is regenerated.

        Without `regions`, those that the model sees are chosen around the mask. `known` (1, 3, H, W), of the model's
        size, tells the class in place of the first region. Raises ValueError for more scales to keep than there are.
        """
        if config.keep_scales > len(model.schedule):
            raise ValueError(f"keep_scales is {config.keep_scales}, the model has {len(model.schedule)} scales")
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.canvas, self.mask, self.known = canvas, mask, known
        self.holes = holes_of(mask, plan(mask, tokenizer.config.image_size) if regions is None else regions)
        self.first = self.region_editor(0, canvas)

    def region_editor(self, number: int, canvas: Canvas) -> RegionEditor:
        """The editor of a region of the canvas as the regions before left it."""
        region, hole = self.holes[number]
        place, device = self.place(number), self.model.device
        image, seen = canvas.cut(place).to(device), region.seen_from(place)
        return RegionEditor(self.model, self.tokenizer, image, hole.to(device), self.config, seen)

    def place(self, number: int) -> Region:
        """The part of a region inside the image."""
        return self.holes[number][0].inside(size_of(self.mask))

    def known_part(self) -> tuple[Tensor, Tensor]:
        """What tells the class: `RegionEditor.known_part` of the first region, or a whole image."""
        return self.first.known_part() if self.known is None else (self.known, torch.ones_like(self.first.kept))

    def steps(
        self, classes: Tensor | Conditions, seeds: Tensor, sampling: SamplingConfig, *, soften: bool = False
    ) -> Iterator[EditStep]:
        """Variations of conditions, or classes, and seeds, a scale at a time, region after region with other noise.

        With `soften`, guidance is that of `RegionEditor.softened`.
        """
        canvas = self.canvas
        for number in range(len(self.holes)):
            editor = self.region_editor(number, canvas) if number else self.first
            settings = editor.softened(sampling) if soften else sampling
            about = editor, self.place(number), canvas, number, len(self.holes)
            step = None
            for sample in editor.samples(classes, seeds, settings, stream=number):
                step = EditStep(sample.scale, sample.tokens, sample.accumulated, *about)
                yield step
            if step is not None and number + 1 < len(self.holes):
                canvas = step.finished()


def likely_classes(model: VAR, tokenizer: VQVAE, images: Tensor, kept: Tensor) -> Tensor:
    """The class under which each image's tokens, weighted by their kept shares, are likeliest, (B,).

    `images` (B, 3, H, W); `kept` (B or 1, 1, h, w). The unconditional class where nothing is kept, and for models of
    no classes or more than `MANY`.
    """
    if not 0 < model.config.classes <= MANY or not bool((kept > 0).any()):
        return torch.full((len(images),), model.config.unconditional, device=images.device)
    shares = torch.cat([downsample(kept, size).flatten(1) for size in tokenizer.schedule], dim=1)
    table = class_log_likelihoods(model, tokenizer.quantizer, tokenizer.encode(images), shares)
    return table.argmax(dim=1).to(images.device)
