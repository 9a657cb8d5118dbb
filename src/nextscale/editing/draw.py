"""Finished variations of an edit, and the best of several candidates of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from nextscale.editing.apply import Editor, EditStep
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import image_generator
from nextscale.sampling.next_scale import SamplingConfig
from nextscale.sampling.rejection import Candidates, Drawn, Rejection, draw_best, require_classes


@torch.no_grad()
def draw_edits(
    editor: Editor,
    wanted: Sequence[tuple[int, int]],
    sampling: SamplingConfig,
    *,
    soften: bool,
    batch_size: int,
    rejection: Rejection | None = None,
) -> tuple[list[Image.Image], Drawn]:
    """An image for each label and seed, and what was drawn, in the last region where there are several.

    With `rejection` the best of several candidates; where there are several regions, their scores are added. Raises
    ValueError where there is no class to judge by.
    """
    if len(editor.pieces) > 1:
        return draw_in_turn(editor, wanted, sampling, soften=soften, rejection=rejection)
    region = editor.first
    settled = region.softened(sampling) if soften else sampling
    drawn = draw_best(
        editor.model, editor.tokenizer, lambda classes, generators: region.samples(classes, generators, settled),
        wanted, batch_size=batch_size, rejection=rejection,
    )  # fmt: skip
    last = len(editor.model.schedule) - 1
    step = EditStep(last, drawn.tokens[last], drawn.accumulated, region, editor.place(0), editor.canvas)
    return step.images(), drawn


def draw_in_turn(
    editor: Editor,
    wanted: Sequence[tuple[int, int]],
    sampling: SamplingConfig,
    *,
    soften: bool,
    rejection: Rejection | None = None,
) -> tuple[list[Image.Image], Drawn]:
    """As `draw_edits`, one variation after the other: later regions depend on what it has in earlier ones."""
    if rejection is not None:
        require_classes(editor.model, wanted)
    images: list[Image.Image] = []
    kept: list[DrawnRegion] = []
    labels, seeds, scores = [], [], []
    for label, seed in wanted:
        candidates = (rejection or Rejection()).seeds(seed)
        drawn = [one_edit(editor, label, one, sampling, soften=soften) for one in candidates]
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


def one_edit(
    editor: Editor, label: int, seed: int, sampling: SamplingConfig, *, soften: bool
) -> tuple[Image.Image, list[DrawnRegion]]:
    """The whole image of one variation, and what was drawn in each region."""
    classes = torch.tensor([label], device=editor.model.device)
    maps: list[Tensor] = []
    regions: list[DrawnRegion] = []
    image = None
    for step in editor.steps(classes, [image_generator(seed)], sampling, soften=soften):
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
