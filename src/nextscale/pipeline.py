"""Load a model, then generate, reconstruct and edit: what users import.

Shapes: B variations, (h, w) latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nextscale.config import require_known, with_settings
from nextscale.data.decode import ImageLike, center_crop, read_image
from nextscale.editing.apply import Editor, EditStep, likely_classes, outpainting
from nextscale.editing.canvas import Canvas
from nextscale.editing.config import EditConfig
from nextscale.editing.draw import draw_edits, draw_in_turn
from nextscale.editing.masks import Box, MaskLike, mask_of_boxes, read_mask
from nextscale.editing.outpaint import Expansion
from nextscale.editing.regions import resized
from nextscale.families.table import kind_of
from nextscale.families.var import VAR
from nextscale.generation import PARAMETERS, SAMPLING_SETTINGS, GenerationPipeline
from nextscale.pictures import to_tensor
from nextscale.pyramid import TokenPyramid
from nextscale.results import ClassLike, Generation
from nextscale.runtime import image_generator
from nextscale.sampling.next_scale import SamplingConfig
from nextscale.sampling.rejection import Rejection

EDIT_SETTINGS = tuple(field.name for field in fields(EditConfig))
AUTO = "auto"
"""As a class of an edit: the one under which what is kept is likeliest."""
MANY = 100
"""Classes above which `auto` does not try them all: edits are then unconditional."""


class VARPipeline(GenerationPipeline):
    """A tokenizer, a transformer and the model's defaults, ready to use.

    Images to be edited are files, bytes, PIL images or arrays, as `nextscale.data.decode.read_image` takes them. The
    settings of edits (`EditConfig`) and of drawing (`SamplingConfig`) are keyword arguments of every edit; they hold
    over `editing` and `config` where these are given.
    """

    def editor(
        self,
        image: ImageLike,
        mask: MaskLike | Sequence[Box] | None = None,
        *,
        editing: EditConfig | None = None,
        **settings: Any,
    ) -> Editor:
        """An image and a mask of what is to be regenerated (white, True or alpha 0; boxes; None is everything)."""
        config, others = edit_settings(editing, settings)
        require_known(others, EDIT_SETTINGS)
        picture = read_image(image)
        size = (picture.height, picture.width)
        if mask is None:
            values = torch.ones(size)
        elif isinstance(mask, Sequence) and not isinstance(mask, (str, bytes)):
            values = read_mask(mask_of_boxes(mask, size), size, name="boxes")
        else:
            values = read_mask(mask, size)
        return Editor(self.editing_model, self.tokenizer, Canvas.of(picture), values, config)

    @property
    def editing_model(self) -> VAR:
        """The transformer. Raises ValueError where it is of a kind that cannot edit."""
        if type(self.transformer) is not VAR:
            title = kind_of(self.transformer.config).title
            raise ValueError(f"editing reaches into the scales of next-scale prediction; this model is {title}")
        return self.transformer

    def pixels_of(self, image: ImageLike) -> Tensor:
        """(1, 3, H, W) in [-1, 1]."""
        return to_tensor([read_image(image)]).to(self.device)

    def edit_steps(
        self,
        editor: Editor,
        *,
        classes: Sequence[ClassLike] | ClassLike = AUTO,
        seeds: Sequence[int] = (0,),
        config: SamplingConfig | None = None,
        **settings: Any,
    ) -> Iterator[EditStep]:
        """Variations of an edit, one per seed, a scale at a time, region after region.

        Guidance that is not given is the model's; for `auto`, times the squared share of the region made anew.
        """
        ids = self.edit_classes(classes, *editor.known_part())
        chosen = torch.tensor([ids[i % len(ids)] for i in range(len(seeds))], device=self.device)
        generators = [image_generator(seed) for seed in seeds]
        soften = softens(classes, config, settings)
        return editor.steps(chosen, generators, self.settled(config, settings), soften=soften)

    def edit_classes(self, classes: Sequence[ClassLike] | ClassLike, image: Tensor, kept: Tensor) -> list[int]:
        """Ids; `auto` is the class under which what is kept is likeliest, where there are at most 100 to try."""
        if classes != AUTO or AUTO in self.class_names:  # which a class may be called
            return self.class_ids(classes)
        if self.transformer.config.classes > MANY or not bool((kept > 0).any()):
            return [self.transformer.config.unconditional]
        return [*likely_classes(self.editing_model, self.tokenizer, image, kept).tolist()]

    def inpaint(
        self,
        image: ImageLike,
        mask: MaskLike | Sequence[Box] | None,
        *,
        classes: Sequence[ClassLike] | ClassLike = AUTO,
        seeds: Sequence[int] = (0,),
        editing: EditConfig | None = None,
        config: SamplingConfig | None = None,
        rejection: Rejection | None = None,
        **settings: Any,
    ) -> Generation:
        """Regenerate what the mask covers, one variation per seed; `tokens` are those of the region around it.

        What is not covered stays as it is, to the pixel; an empty mask returns the image. Images of any size: the
        region around the mask is edited at the model's size and put back; holes far from each other have regions of
        their own, one after the other, of which the largest hole's tells the class and `tokens` are the last's. With
        `rejection`, the best of several candidates of each variation is kept. Guidance that is not given is the
        model's; for the class `auto`, times the squared share of the region that is made anew. Raises ValueError for
        masks that do not fit, and for unknown settings.
        """
        editing, settings = edit_settings(editing, settings)
        self.settled(config, settings)  # complain before anything is read
        editor = self.editor(image, mask, editing=editing)
        return self.variations(editor, classes=classes, seeds=seeds, config=config, rejection=rejection, **settings)

    @torch.no_grad()
    def variations(
        self,
        editor: Editor,
        *,
        classes: Sequence[ClassLike] | ClassLike = AUTO,
        seeds: Sequence[int] = (0,),
        config: SamplingConfig | None = None,
        rejection: Rejection | None = None,
        **settings: Any,
    ) -> Generation:
        """Finished variations of an edit, as `inpaint` makes them."""
        require_seeds(seeds)
        settled = self.settled(config, settings)
        ids = self.edit_classes(classes, *editor.known_part())
        chosen = [ids[i % len(ids)] for i in range(len(seeds))]
        if not bool((editor.mask > 0).any()):
            tokens = self.tokenizer.encode(editor.first.cut).packed.repeat(len(seeds), 1)
            images = editor.canvas.images() * len(seeds)
            return Generation(images, TokenPyramid(tokens.cpu(), self.schedule), chosen, list(seeds))
        images, drawn = draw_edits(
            editor, list(zip(chosen, seeds, strict=True)), settled, soften=softens(classes, config, settings),
            batch_size=self.default_batch_size, rejection=rejection,
        )  # fmt: skip
        return Generation(images, drawn.tokens, drawn.labels, drawn.seeds, drawn.scores)

    def edit(
        self, image: ImageLike, mask: MaskLike | Sequence[Box] | None = None, *, classes: Any, **settings: Any
    ) -> Generation:
        """`inpaint` toward other classes; without a mask the whole image, of which `keep_scales` keeps the layout."""
        return self.inpaint(image, mask, classes=classes, **settings)

    @torch.no_grad()
    def outpaint(
        self,
        image: ImageLike,
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        classes: Sequence[ClassLike] | ClassLike = AUTO,
        seeds: Sequence[int] = (0,),
        editing: EditConfig | None = None,
        config: SamplingConfig | None = None,
        **settings: Any,
    ) -> Generation:
        """Add pixels at the sides, window by window, one variation per seed; `tokens` are the last window's."""
        require_seeds(seeds)
        editing, settings = edit_settings(editing, settings)
        settled = self.settled(config, settings)
        if editing.keep_scales:
            raise ValueError("out-painting has no first scales to keep: nothing is there yet")
        expansion = Expansion(left=left, right=right, top=top, bottom=bottom)
        picture = read_image(image)
        shown = resized(self.pixels_of(picture), self.tokenizer.config.image_size)
        ids = self.edit_classes(classes, shown, torch.ones(1, 1, *self.schedule.final, device=self.device))
        chosen = [ids[i % len(ids)] for i in range(len(seeds))]
        editor = outpainting(self.editing_model, self.tokenizer, picture, expansion, editing)
        images, drawn = draw_in_turn(
            editor, list(zip(chosen, seeds, strict=True)), settled, soften=softens(classes, config, settings)
        )
        return Generation(images, drawn.tokens, chosen, list(seeds))

    def upscale(
        self,
        image: ImageLike,
        *,
        classes: Sequence[ClassLike] | ClassLike = AUTO,
        seeds: Sequence[int] = (0,),
        editing: EditConfig | None = None,
        config: SamplingConfig | None = None,
        **settings: Any,
    ) -> Generation:
        """A small image at the model's size, one variation per seed.

        The image gives the scales whose maps it resolves (at least the first) unless `keep_scales` says how many, the
        model the finer ones. Raises ValueError for an image that is not smaller than the model's.
        """
        picture = read_image(image)
        height, width = self.tokenizer.config.image_size
        share = max(picture.height / height, picture.width / width)
        if share >= 1:
            raise ValueError(
                f"the image has {picture.width} x {picture.height} pixels already; upscaling makes those of less than "
                f"{width} x {height} as large as that"
            )
        known = sum(size[0] / self.schedule.final[0] <= share for size in self.schedule)
        enlarged = Image.fromarray(center_crop(picture, (height, width)))
        editing = replace(editing or EditConfig(), keep_scales=max(1, known))
        return self.inpaint(enlarged, None, classes=classes, seeds=seeds, editing=editing, config=config, **settings)


def edit_settings(editing: EditConfig | None, settings: dict[str, Any]) -> tuple[EditConfig, dict[str, Any]]:
    """Settings of the edit given by name over those of `editing`, and the settings that are not the edit's.

    Raises ValueError for unknown ones, with near matches, and for values out of range.
    """
    require_known(settings, (*EDIT_SETTINGS, *SAMPLING_SETTINGS), parameters=("editing", *PARAMETERS))
    own = {name: value for name, value in settings.items() if name in EDIT_SETTINGS}
    others = {name: value for name, value in settings.items() if name not in EDIT_SETTINGS}
    return with_settings(editing or EditConfig(), own), others


def softens(classes: Any, config: SamplingConfig | None, settings: dict[str, Any]) -> bool:
    """Whether guidance is left to the edit, whose class is what its surroundings look like."""
    return classes == AUTO and config is None and settings.get("guidance") is None


def require_seeds(seeds: Sequence[int]) -> None:
    """Raises ValueError where there are none."""
    if len(seeds) == 0:
        raise ValueError("no seeds given; expected one per variation")
