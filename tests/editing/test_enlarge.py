"""What is added around an image, and small images made large."""

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.editing.enlarge import Expansion, parse_expansion, window_size, windows
from nextscale.pipeline import VARPipeline
from toys import noise, pixels, toy_image


def test_outpainting_keeps_the_image_and_its_cost_is_linear(pipeline: VARPipeline) -> None:
    image = noise(16, 16)
    result = pipeline.outpaint(image, right=16, top=5, classes="red", seeds=[0, 1])
    for made in result.images:
        assert made.size == (32, 21)
        assert np.array_equal(np.asarray(made)[5:, :16], np.asarray(image))
        assert np.asarray(made)[:, 16:].std() > 0
    counts = []
    for added in (64, 128, 256):
        _, mask = Expansion(right=added).canvas(torch.zeros(1, 3, 64, 64))
        counts.append(len(list(windows(mask, (64, 64)))))
    assert counts == [2, 4, 8]


def test_windows_cover_what_is_new_and_see_what_is_known() -> None:
    image = torch.zeros(1, 3, 20, 30)
    _, mask = Expansion(left=17, right=3, top=20, bottom=9).canvas(image)
    left = mask.clone()
    for window in windows(mask, window_size((20, 30), (16, 16))):
        inside = window.inside((49, 50)).pixels
        assert left[inside].numel() == window.area, "windows lie inside the image"
        assert (left[inside] > 0).any(), "every window has something to do"
        assert (left[inside] == 0).float().mean() >= 0.3, "and sees a part that is known"
        left[inside] = 0
    assert left.sum() == 0


@pytest.mark.parametrize("text", ["", "left", "left=x", "up=3", "left=1,left=2", "left=-1", "left=0"])
def test_expansions_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expand"):
        parse_expansion(text)


def test_upscaling_takes_the_coarse_scales(pipeline: VARPipeline) -> None:
    small = toy_image(0, 0).resize((8, 8))
    result = pipeline.upscale(small, classes="red", seeds=[0, 1])
    assert [image.size for image in result.images] == [(16, 16)] * 2
    enlarged = pixels(small.resize((16, 16), Image.Resampling.LANCZOS))
    known = pipeline.tokenizer.encode(enlarged).packed[:, :5]
    assert torch.equal(result.tokens.packed[:, :5], known.expand(2, -1)), "1x1 and 2x2 of 4x4 are resolved"
    with pytest.raises(ValueError, match="has 16 x 16 pixels already"):
        pipeline.upscale(toy_image(0, 0))
