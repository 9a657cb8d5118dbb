"""One edit: the region around a mask, its scales sampled under a hook, and the result put back.

Shapes: B variations of one image, (H, W) pixels, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nextscale.editing.composite import composite
from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS, KeepScales, Together
from nextscale.editing.masks import filled
from nextscale.editing.outpaint import Expansion, window_size, windows
from nextscale.editing.regions import Region, covered, region_around, resized
from nextscale.models.var import VAR
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import image_generator
from nextscale.sampling.likelihood import class_log_likelihoods
from nextscale.sampling.next_scale import SamplingConfig, SamplingHook, ScaleSample, sample_scales
from nextscale.tokenizer.residual import downsample
from nextscale.tokenizer.vqvae import VQVAE


class Editor:
    """An image and a mask, ready to be edited with any class and seed."""

    @torch.no_grad()
    def __init__(
        self,
        model: VAR,
        tokenizer: VQVAE,
        image: Tensor,
        mask: Tensor,
        config: EditConfig,
        region: Region | None = None,
    ) -> None:
        """`image` (1, 3, H, W) in [-1, 1] of any size; `mask` (H, W), 1 where it is regenerated.

        The region that the model sees is chosen around the mask unless it is given. Raises ValueError for more scales
        to keep than there are.
        """
        if config.keep_scales > len(model.schedule):
            raise ValueError(f"keep_scales is {config.keep_scales}, the model has {len(model.schedule)} scales")
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.image, self.mask = image, mask
        size = tokenizer.config.image_size
        self.region = region or region_around(mask, size)
        there = self.region.cut(torch.ones_like(mask)) > 0
        inside = self.region.cut(mask, fill=1.0)  # what lies beyond the image's edges is made up, and dropped
        known = (covered(inside, size) == 0)[None, None]
        self.cut = resized(filled(self.region.cut(image), there[None, None]), size)
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
        """An image (1, 3, H, W) of the model's size and the share of each latent (1, 1, h, w) that tells its class."""
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
        return Together(*hooks) if hooks else None

    def steps(
        self, classes: Tensor, generators: Sequence[torch.Generator], sampling: SamplingConfig
    ) -> Iterator[ScaleSample]:
        """Sample variations of classes (B,), one generator each, a scale at a time."""
        return sample_scales(
            self.model, self.tokenizer.quantizer, classes, generators=generators, config=sampling, hook=self.hook()
        )

    def finish(self, accumulated: Tensor) -> Tensor:
        """The whole images (B, 3, H, W) of what was accumulated (B, C, h, w)."""
        generated = self.tokenizer.decode_each(accumulated)
        whole = (self.region.height, self.region.width)
        before, hole = self.region.cut(self.image), self.region.cut(self.mask, fill=1.0)[None, None]
        part = composite(before, resized(generated, whole), hole, feather=self.config.feather)
        return self.region.paste(self.image.expand(len(part), -1, -1, -1), part)


def likely_classes(model: VAR, tokenizer: VQVAE, images: Tensor, kept: Tensor) -> Tensor:
    """The class under which the tokens of each image (B, 3, H, W) are likeliest, each by its share of `kept`, (B,).

    `kept` (B or 1, 1, h, w). Without classes it is the unconditional one.
    """
    shares = torch.cat([downsample(kept, size).flatten(1) for size in tokenizer.schedule], dim=1)
    table = class_log_likelihoods(model, tokenizer.quantizer, tokenizer.encode(images), shares)
    if table.shape[1] == 0:
        return torch.full((len(images),), model.config.unconditional, device=images.device)
    return table.argmax(dim=1).to(images.device)


def outpainted(
    model: VAR,
    tokenizer: VQVAE,
    image: Tensor,
    expansion: Expansion,
    label: int,
    seed: int,
    sampling: SamplingConfig,
    config: EditConfig,
    *,
    soften: bool,
) -> tuple[Tensor, TokenPyramid]:
    """An image (1, 3, H, W) with new pixels around it, window by window, and the last window's tokens."""
    canvas, mask = expansion.canvas(image)
    size = window_size((image.shape[-2], image.shape[-1]), tokenizer.config.image_size)
    generator, classes = image_generator(seed), torch.tensor([label], device=image.device)
    steps: list[ScaleSample] = []
    for window in windows(mask, size):
        seen = window.cover(mask)
        editor = Editor(model, tokenizer, canvas, mask * seen, config, window)
        steps = list(editor.steps(classes, [generator], editor.softened(sampling) if soften else sampling))
        canvas = editor.finish(steps[-1].accumulated)
        mask = mask * (1 - seen)
    return canvas, TokenPyramid.from_maps([step.tokens for step in steps], model.schedule)
