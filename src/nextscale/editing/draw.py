"""Finished variations of an edit, and the best of several candidates of each.

Shapes: N candidates, C latent channels, (h, w) the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nextscale.conditions import ANY_CLASS, Choices
from nextscale.config import require_known, with_settings
from nextscale.editing.apply import Editor, EditStep
from nextscale.editing.config import EDIT_SETTINGS, EditConfig
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.noise import image_seeds
from nextscale.sampling.rejection import Candidates, Drawing, Drawn, Rejection, require_classes
from nextscale.sampling.step import PARAMETERS, SAMPLING_SETTINGS, SamplingConfig

AUTO = "auto"
"""As a class of an edit: the one under which what is kept is likeliest."""


def edit_settings(editing: EditConfig | None, settings: dict[str, Any]) -> tuple[EditConfig, dict[str, Any]]:
    """`editing` with the settings of edits that were given by name, and the other settings.

    Raises ValueError for unknown ones, with near matches, and for values out of range.
    """
    require_known(settings, (*EDIT_SETTINGS, *SAMPLING_SETTINGS), parameters=("editing", *PARAMETERS))
    own = {name: value for name, value in settings.items() if name in EDIT_SETTINGS}
    others = {name: value for name, value in settings.items() if name not in EDIT_SETTINGS}
    return with_settings(editing or EditConfig(), own), others


def softens(classes: Any, config: SamplingConfig | None, settings: dict[str, Any]) -> bool:
    """Whether the edit softens the model's guidance: for a class that was read from the image, if none was set."""
    return classes == AUTO and config is None and settings.get("guidance") is None


@dataclass(frozen=True)
class Wanted:
    """Variations of an edit: a class and a seed each, and the settings of all."""

    labels: Sequence[int]
    seeds: Sequence[int]
    sampling: SamplingConfig
    soften: bool
    "Whether guidance is that of `RegionEditor.softened`."
    choices: Choices = ANY_CLASS
    "What the labels are of."

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
    """An image for each label and seed, and the tokens of the last region.

    With `rejection`, the best of several candidates; their scores are added over all regions. Raises ValueError where
    a candidate's class is the unconditional one.
    """
    if not bool((editor.mask > 0).any()):
        tokens = TokenPyramid(editor.tokenizer.encode(editor.first.cut).packed.cpu(), editor.model.schedule)
        labels, seeds = list(wanted.labels), list(wanted.seeds)
        unchanged = Drawn(tokens.select([0] * len(seeds)), editor.first.kept, labels, seeds, None)
        return editor.canvas.images() * len(seeds), unchanged
    if len(editor.holes) > 1:
        return draw_in_turn(editor, wanted, rejection=rejection)
    region = editor.first
    sampling = region.softened(wanted.sampling) if wanted.soften else wanted.sampling
    drawing = Drawing(editor.model, wanted.pairs, rejection, wanted.choices)
    for conditions, seeds in drawing.parts(batch_size):
        drawing.add(list(region.samples(conditions, seeds, sampling)))
    drawn = drawing.finish(editor.tokenizer)
    last = len(editor.model.schedule) - 1
    step = EditStep(last, drawn.tokens[last], drawn.accumulated, region, editor.place(0), editor.canvas)
    return step.images(), drawn


def draw_in_turn(
    editor: Editor, wanted: Wanted, *, rejection: Rejection | None = None
) -> tuple[list[Image.Image], Drawn]:
    """`draw_edits`, one variation after the other, because later regions depend on a variation's earlier ones."""
    if rejection is not None:
        require_classes(editor.model, wanted.pairs)
    images: list[Image.Image] = []
    kept: list[DrawnRegion] = []
    labels, seeds, scores = [], [], []
    for label, seed in wanted.pairs:
        candidates = (rejection or Rejection()).seeds(seed)
        drawn = [draw_one(editor, label, candidate, wanted) for candidate in candidates]
        best, sums = [0], torch.zeros(1)
        if rejection is not None:
            sums = sum_of_scores([regions for _, regions in drawn], label, editor, rejection, wanted.choices)
            best = rejection.ranked(sums)
        images += [drawn[row][0] for row in best]
        kept += [drawn[row][1][-1] for row in best]
        labels += [label] * len(best)
        seeds += [candidates[row] for row in best]
        scores += sums[best].tolist()
    last = joined(kept, editor)
    return images, Drawn(last.tokens, last.accumulated.cpu(), labels, seeds, scores if rejection else None)


@dataclass(frozen=True)
class DrawnRegion:
    """What was drawn in one region, of one variation or several."""

    tokens: TokenPyramid
    accumulated: Tensor  # (N, C, h, w)


def joined(regions: Sequence[DrawnRegion], editor: Editor) -> DrawnRegion:
    """Several variations of a region as one batch; their tokens on the CPU."""
    packed = torch.cat([one.tokens.packed for one in regions]).cpu()
    return DrawnRegion(TokenPyramid(packed, editor.model.schedule), torch.cat([one.accumulated for one in regions]))


def draw_one(editor: Editor, label: int, seed: int, wanted: Wanted) -> tuple[Image.Image, list[DrawnRegion]]:
    """The edited image of one variation, and what was drawn in each region."""
    device = editor.model.device
    conditions, seeds = wanted.choices.conditions([label], device), image_seeds([seed], device)
    maps: list[Tensor] = []
    regions: list[DrawnRegion] = []
    step = None
    for step in editor.steps(conditions, seeds, wanted.sampling, soften=wanted.soften):
        maps.append(step.tokens)
        if step.scale == len(editor.model.schedule) - 1:
            regions.append(DrawnRegion(TokenPyramid.from_maps(maps, editor.model.schedule), step.accumulated))
            maps = []
    assert step is not None
    return step.images()[0], regions


def sum_of_scores(
    drawn: Sequence[Sequence[DrawnRegion]], label: int, editor: Editor, rejection: Rejection, choices: Choices
) -> Tensor:
    """The judge's score of each candidate, summed over its regions, (N,)."""
    scores = torch.zeros(len(drawn))
    for regions in zip(*drawn, strict=True):
        region = joined(regions, editor)
        candidates = Candidates(region.tokens, region.accumulated, label, editor.model, editor.tokenizer, choices)
        scores += rejection.judge(candidates).cpu()
    return scores
