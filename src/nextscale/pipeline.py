"""Load a model, then generate, reconstruct and edit: what users import.

Shapes: B variations, (h, w) latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.data.loader import to_float
from nextscale.data.transform import center_crop
from nextscale.editing.apply import EditConfig, Editor, likely_classes, outpainted
from nextscale.editing.masks import Box, MaskLike, mask_of_boxes, read_mask
from nextscale.editing.outpaint import Expansion
from nextscale.editing.regions import resized
from nextscale.generation import GenerationPipeline
from nextscale.models.families import kind_of
from nextscale.models.var import VAR
from nextscale.pictures import to_images
from nextscale.pyramid import TokenPyramid
from nextscale.results import ClassLike, Generation
from nextscale.runtime import image_generator
from nextscale.sampling.next_scale import SamplingConfig, ScaleSample
from nextscale.sampling.rejection import Rejection, draw_best

AUTO = "auto"
"""As a class of an edit: the one under which what is kept is likeliest."""
MANY = 100
"""Classes above which `auto` does not try them all: edits are then unconditional."""


class VARPipeline(GenerationPipeline):
    """A tokenizer, a transformer and the model's defaults, ready to use."""

    def editor(
        self, image: Image.Image, mask: MaskLike | Sequence[Box] | None = None, *, editing: EditConfig | None = None
    ) -> Editor:
        """An image and a mask of what is to be regenerated (white, True or alpha 0; boxes; None is everything)."""
        pixels = self.pixels_of(image)
        size = (image.height, image.width)
        if mask is None:
            values = torch.ones(size)
        elif isinstance(mask, Sequence) and not isinstance(mask, (str, bytes)):
            values = mask_of_boxes(mask, size)
        else:
            values = read_mask(mask, size)
        return Editor(self.editing_model, self.tokenizer, pixels, values.to(self.device), editing or EditConfig())

    @property
    def editing_model(self) -> VAR:
        """The transformer. Raises ValueError where it is of a kind that cannot edit."""
        if type(self.transformer) is not VAR:
            title = kind_of(self.transformer.config).title
            raise ValueError(f"editing reaches into the scales of next-scale prediction; this model is {title}")
        return self.transformer

    def pixels_of(self, image: Image.Image) -> Tensor:
        """(1, 3, H, W) in [-1, 1]."""
        return to_float(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]).to(self.device)

    def edit_steps(
        self,
        editor: Editor,
        *,
        classes: Sequence[ClassLike] | ClassLike = AUTO,
        seeds: Sequence[int] = (0,),
        config: SamplingConfig | None = None,
        **settings: float | int | bool | None,
    ) -> Iterator[ScaleSample]:
        """Variations of an edit, one per seed, a scale at a time; `editor.finish` makes images of each.

        Guidance that is not given is the model's; for `auto`, times the squared share of the region made anew.
        """
        ids = self.edit_classes(classes, *editor.known_part())
        chosen = torch.tensor([ids[i % len(ids)] for i in range(len(seeds))], device=self.device)
        generators = [image_generator(seed) for seed in seeds]
        return editor.steps(chosen, generators, self.edit_sampling(editor, classes, config, settings))

    def edit_sampling(
        self, editor: Editor, classes: Any, config: SamplingConfig | None, settings: dict[str, Any]
    ) -> SamplingConfig:
        """The settings of an edit; guidance that is not given counts less where the class is what is kept."""
        chosen = config or self.sampling(**settings)
        return editor.softened(chosen) if softens(classes, config, settings) else chosen

    def edit_classes(self, classes: Sequence[ClassLike] | ClassLike, image: Tensor, kept: Tensor) -> list[int]:
        """Ids; `auto` is the class under which what is kept is likeliest, where there are at most 100 to try."""
        if classes != AUTO or AUTO in self.class_names:  # which a class may be called
            return self.class_ids(classes)
        if self.transformer.config.classes > MANY or not bool((kept > 0).any()):
            return [self.transformer.config.unconditional]
        return [*likely_classes(self.editing_model, self.tokenizer, image, kept).tolist()]

    @torch.no_grad()
    def inpaint(
        self,
        image: Image.Image,
        mask: MaskLike | Sequence[Box] | None,
        *,
        classes: Sequence[ClassLike] | ClassLike = AUTO,
        seeds: Sequence[int] = (0,),
        editing: EditConfig | None = None,
        config: SamplingConfig | None = None,
        rejection: Rejection | None = None,
        **settings: float | int | bool | None,
    ) -> Generation:
        """Regenerate what the mask covers, one variation per seed; `tokens` are those of the region around it.

        What is not covered stays as it is, to the pixel; an empty mask returns the image. Images of any size: the
        region around the mask is edited at the model's size and put back. With `rejection`, the best of several
        candidates of each variation is kept. Guidance that is not given is the model's; for the class `auto`, times the
        squared share of the region that is made anew. Raises ValueError for masks that do not fit.
        """
        require_seeds(seeds)
        editor = self.editor(image, mask, editing=editing)
        ids = self.edit_classes(classes, *editor.known_part())
        chosen = [ids[i % len(ids)] for i in range(len(seeds))]
        if not bool((editor.mask > 0).any()):
            tokens = self.tokenizer.encode(editor.cut).packed.repeat(len(seeds), 1)
            images = [image.convert("RGB")] * len(seeds)
            return Generation(images, TokenPyramid(tokens.cpu(), self.schedule), chosen, list(seeds))
        settled = self.edit_sampling(editor, classes, config, settings)
        drawn = draw_best(
            self.transformer, self.tokenizer, lambda chosen, generators: editor.steps(chosen, generators, settled),
            list(zip(chosen, seeds, strict=True)), batch_size=self.default_batch_size, rejection=rejection,
        )  # fmt: skip
        images = [to_images(editor.finish(one.to(self.device)))[0] for one in drawn.accumulated.split(1)]
        return Generation(images, drawn.tokens, drawn.labels, drawn.seeds, drawn.scores)

    def edit(
        self, image: Image.Image, mask: MaskLike | Sequence[Box] | None = None, *, classes: Any, **settings: Any
    ) -> Generation:
        """`inpaint` toward other classes; without a mask the whole image, of which `keep_scales` keeps the layout."""
        return self.inpaint(image, mask, classes=classes, **settings)

    @torch.no_grad()
    def outpaint(
        self,
        image: Image.Image,
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        classes: Sequence[ClassLike] | ClassLike = AUTO,
        seeds: Sequence[int] = (0,),
        editing: EditConfig | None = None,
        config: SamplingConfig | None = None,
        **settings: float | int | bool | None,
    ) -> Generation:
        """Add pixels at the sides, window by window, one variation per seed; `tokens` are the last window's."""
        require_seeds(seeds)
        if editing is not None and editing.keep_scales:
            raise ValueError("out-painting has no first scales to keep: nothing is there yet")
        expansion = Expansion(left=left, right=right, top=top, bottom=bottom)
        pixels = self.pixels_of(image)
        shown = resized(pixels, self.tokenizer.config.image_size)
        ids = self.edit_classes(classes, shown, torch.ones(1, 1, *self.schedule.final, device=self.device))
        chosen = [ids[i % len(ids)] for i in range(len(seeds))]
        settled, editing = config or self.sampling(**settings), editing or EditConfig()
        images: list[Image.Image] = []
        packed: list[Tensor] = []
        for label, seed in zip(chosen, seeds, strict=True):
            canvas, tokens = outpainted(
                self.editing_model,
                self.tokenizer,
                pixels,
                expansion,
                label,
                seed,
                settled,
                editing,
                soften=softens(classes, config, settings),
            )
            images += to_images(canvas)
            packed.append(tokens.packed.cpu())
        return Generation(images, TokenPyramid(torch.cat(packed), self.schedule), chosen, list(seeds))

    def upscale(
        self,
        image: Image.Image,
        *,
        classes: Sequence[ClassLike] | ClassLike = AUTO,
        seeds: Sequence[int] = (0,),
        config: SamplingConfig | None = None,
        **settings: Any,
    ) -> Generation:
        """A small image at the model's size, one variation per seed.

        The image gives the scales whose maps it resolves (at least the first), the model the finer ones. Raises
        ValueError for an image that is not smaller than the model's.
        """
        height, width = self.tokenizer.config.image_size
        share = max(image.height / height, image.width / width)
        if share >= 1:
            raise ValueError(
                f"the image has {image.width} x {image.height} pixels already; upscaling makes those of less than "
                f"{width} x {height} as large as that"
            )
        known = sum(size[0] / self.schedule.final[0] <= share for size in self.schedule)
        enlarged = Image.fromarray(center_crop(image.convert("RGB"), (height, width)))
        editing = EditConfig(keep_scales=max(1, known))
        return self.inpaint(enlarged, None, classes=classes, seeds=seeds, editing=editing, config=config, **settings)


def softens(classes: Any, config: SamplingConfig | None, settings: dict[str, Any]) -> bool:
    """Whether guidance is left to the edit, whose class is what its surroundings look like."""
    return classes == AUTO and config is None and settings.get("guidance") is None


def require_seeds(seeds: Sequence[int]) -> None:
    """Raises ValueError where there are none."""
    if len(seeds) == 0:
        raise ValueError("no seeds given; expected one per variation")
