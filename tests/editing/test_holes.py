"""Holes far apart, long ones, and small ones in large images: each is edited in regions of its own."""

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.editing.masks import mask_of_boxes
from nextscale.pipeline import VARPipeline
from nextscale.sampling.rejection import Candidates, Rejection
from toys import noise

ENDS = [(4, 4, 14, 14), (288, 2, 296, 10)]


@pytest.fixture
def wide() -> Image.Image:
    return noise(300, 18)


def test_holes_far_apart_are_edited_each_in_a_region_of_its_own(pipeline: VARPipeline, wide: Image.Image) -> None:
    result = pipeline.inpaint(wide, ENDS, classes="red", seeds=[1, 2], temperature=3.0)
    alone = pipeline.inpaint(wide, ENDS[:1], classes="red", seeds=[1], temperature=3.0)
    before, mask = np.asarray(wide), mask_of_boxes(ENDS, (18, 300)).numpy() > 0
    for image in result.images:
        after = np.asarray(image)
        assert np.array_equal(after[~mask], before[~mask])
        assert all((after[y:b, x:r] != before[y:b, x:r]).any() for x, y, r, b in ENDS)
    assert np.array_equal(np.asarray(result.images[0])[:, :100], np.asarray(alone.images[0])[:, :100])
    assert result.tokens.packed.shape == (2, 30) and result.seeds == [1, 2] and result.scores is None
    second = pipeline.inpaint(wide, ENDS, classes="red", seeds=[2], temperature=3.0)
    assert second.images[0].tobytes() == result.images[1].tobytes(), "a variation does not depend on the others"


def test_steps_go_through_the_regions_and_end_with_the_result(pipeline: VARPipeline, wide: Image.Image) -> None:
    editor = pipeline.editor(wide, ENDS, feather=2)
    steps = list(pipeline.edit_steps(editor, classes="red", seeds=[1]))
    assert [(step.region, step.scale) for step in steps] == [(r, k) for r in (0, 1) for k in range(4)]
    wanted = pipeline.inpaint(wide, ENDS, classes="red", seeds=[1], feather=2).images[0]
    assert steps[-1].images()[0].tobytes() == wanted.tobytes()
    halfway = np.asarray(steps[3].images()[0])
    assert np.array_equal(halfway[:, :100], np.asarray(wanted)[:, :100])
    assert np.array_equal(halfway[:, 200:], np.asarray(wide)[:, 200:])


def test_candidates_are_whole_edits_and_their_scores_add_up(pipeline: VARPipeline, wide: Image.Image) -> None:
    def judge(candidates: Candidates) -> torch.Tensor:
        return candidates.accumulated.flatten(1)[:, :8].sum(dim=1)

    best = pipeline.inpaint(
        wide, ENDS, classes="red", seeds=[5], temperature=3.0, rejection=Rejection(candidates=3, keep=2, judge=judge)
    )
    scores = {}
    for seed in (15, 16, 17):
        editor = pipeline.editor(wide, ENDS)
        steps = list(pipeline.edit_steps(editor, classes="red", seeds=[seed], temperature=3.0))
        scores[seed] = float(sum(steps[last].accumulated.flatten()[:8].sum() for last in (3, 7)))
    order = sorted(scores, key=lambda seed: -scores[seed])[:2]
    assert best.seeds == order and best.scores == pytest.approx([scores[seed] for seed in order], abs=1e-4)
    again = pipeline.inpaint(wide, ENDS, classes="red", seeds=order, temperature=3.0)
    assert [one.tobytes() for one in best.images] == [one.tobytes() for one in again.images]
    with pytest.raises(ValueError, match="name classes"):
        pipeline.inpaint(wide, ENDS, classes=[None], rejection=Rejection(candidates=2))


def test_a_long_hole_is_filled_along_the_image(pipeline: VARPipeline) -> None:
    long, mask = noise(90, 18), np.zeros((18, 90), np.uint8)
    mask[6:12, 10:80] = 1
    image = np.asarray(pipeline.inpaint(long, mask, classes="red").images[0])
    assert np.array_equal(image[mask == 0], np.asarray(long)[mask == 0])
    changed = (image != np.asarray(long)).any(axis=2)[mask > 0].reshape(6, 70)
    assert changed.mean(axis=0).min() > 0.5


def test_a_large_photo_is_edited_around_the_mask(pipeline: VARPipeline) -> None:
    image = noise(500, 300)
    result = pipeline.inpaint(image, [(480, 280, 495, 299)], classes="red")
    changed = (np.asarray(result.images[0]) != np.asarray(image)).any(axis=2)
    assert changed[280:299, 480:495].any() and not changed[:280].any() and not changed[:, :480].any()
