"""Finished variations of an edit, and the best of several candidates of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nextscale.config import require_known, with_settings
from nextscale.editing.apply import Editor, EditStep
from nextscale.editing.config import EDIT_SETTINGS, EditConfig
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import image_generator
from nextscale.sampling.rejection import Candidates, Drawing, Drawn, Rejection, require_classes
from nextscale.sampling.step import PARAMETERS, SAMPLING_SETTINGS, SamplingConfig

AUTO = "auto"
"""As a class of an edit: the one under which what is kept is likeliest."""


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


@dataclass(frozen=True)
class Wanted:
    """Variations of an edit: a class and a seed each, drawn alike."""

    labels: Sequence[int]
    seeds: Sequence[int]
    sampling: SamplingConfig
    soften: bool
    "Whether guidance counts by how much is made anew (`RegionEditor.softened`)."

    def __post_init__(self) -> None:
        if len(self.seeds) == 0:
            raise ValueError("no seeds given; expected one per variation")

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Labels with their seeds."""
        return list(zip(self.labels, self.seeds, strict=True))


@torch.no_grad()
def draw_edits(
    editor: Editor, wanted: Wanted, *, batch_size: int, rejection: Rejection | None = None
) -> tuple[list[Image.Image], Drawn]:
    """An image for each label and seed, and what was drawn, in the last region where there are several.

    With `rejection` the best of several candidates; where there are several regions, their scores are added. Raises
    ValueError where there is no class to judge by.
    """
    if not bool((editor.mask > 0).any()):
        tokens = TokenPyramid(editor.tokenizer.encode(editor.first.cut).packed.cpu(), editor.model.schedule)
        labels, seeds = list(wanted.labels), list(wanted.seeds)
        unchanged = Drawn(tokens.select([0] * len(seeds)), editor.first.kept, labels, seeds, None)
        return editor.canvas.images() * len(seeds), unchanged
    if len(editor.pieces) > 1:
        return draw_in_turn(editor, wanted, rejection=rejection)
    region = editor.first
    settled = region.softened(wanted.sampling) if wanted.soften else wanted.sampling
    drawing = Drawing(editor.model, wanted.pairs, rejection)
    for classes, generators in drawing.parts(batch_size):
        drawing.add(list(region.samples(classes, generators, settled)))
    drawn = drawing.finish(editor.tokenizer)
    last = len(editor.model.schedule) - 1
    step = EditStep(last, drawn.tokens[last], drawn.accumulated, region, editor.place(0), editor.canvas)
    return step.images(), drawn


def draw_in_turn(
    editor: Editor, wanted: Wanted, *, rejection: Rejection | None = None
) -> tuple[list[Image.Image], Drawn]:
    """As `draw_edits`, one variation after the other: later regions depend on what it has in earlier ones."""
    if rejection is not None:
        require_classes(editor.model, wanted.pairs)
    images: list[Image.Image] = []
    kept: list[DrawnRegion] = []
    labels, seeds, scores = [], [], []
    for label, seed in wanted.pairs:
        candidates = (rejection or Rejection()).seeds(seed)
        drawn = [one_edit(editor, label, one, wanted) for one in candidates]
        chosen, judged = [0], torch.zeros(1)
        if rejection is not None:
            judged = sum_of_scores([regions for _, regions in drawn], label, editor, rejection)
            chosen = judged.argsort(descending=True, stable=True)[: rejection.keep].tolist()
        for row in chosen:
            image, regions = drawn[row]
            images.append(image)
            kept.append(regions[-1])
            labels.append(label)
            seeds.append(candidates[row])
            scores.append(float(judged[row]))
    tokens = TokenPyramid(torch.cat([one.tokens.packed for one in kept]).cpu(), editor.model.schedule)
    accumulated = torch.cat([one.accumulated for one in kept]).cpu()
    return images, Drawn(tokens, accumulated, labels, seeds, scores if rejection else None)


@dataclass(frozen=True)
class DrawnRegion:
    """What was drawn in one region of one variation."""

    tokens: TokenPyramid
    accumulated: Tensor  # (1, C, h, w)


def one_edit(editor: Editor, label: int, seed: int, wanted: Wanted) -> tuple[Image.Image, list[DrawnRegion]]:
    """The whole image of one variation, and what was drawn in each region."""
    classes = torch.tensor([label], device=editor.model.device)
    maps: list[Tensor] = []
    regions: list[DrawnRegion] = []
    image = None
    for step in editor.steps(classes, [image_generator(seed)], wanted.sampling, soften=wanted.soften):
        maps.append(step.tokens)
        if step.scale == len(editor.model.schedule) - 1:
            regions.append(DrawnRegion(TokenPyramid.from_maps(maps, editor.model.schedule), step.accumulated))
            maps = []
            if step.region == step.regions - 1:
                (image,) = step.images()
    assert image is not None
    return image, regions


def sum_of_scores(drawn: Sequence[Sequence[DrawnRegion]], label: int, editor: Editor, rejection: Rejection) -> Tensor:
    """What the judge gives each candidate in all of its regions together, (N,)."""
    scores = torch.zeros(len(drawn))
    for regions in zip(*drawn, strict=True):
        tokens = TokenPyramid(torch.cat([one.tokens.packed for one in regions]).cpu(), editor.model.schedule)
        accumulated = torch.cat([one.accumulated for one in regions])
        scores += rejection.judge(Candidates(tokens, accumulated, label, editor.model, editor.tokenizer)).cpu()
    return scores
