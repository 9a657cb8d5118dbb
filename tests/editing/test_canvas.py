"""Canvases of edited images, fills and compositing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nextscale.editing.canvas import Canvas, composite, depth_below, filled, spread_inward
from nextscale.editing.regions import Region


def test_a_canvas_keeps_what_no_part_covers_to_the_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    canvas = Canvas.of(Image.fromarray(pixels))
    assert [image.tobytes() for image in canvas.images()] == [pixels.tobytes()]
    parts = torch.rand(2, 3, 3, 4) * 2 - 1
    first = canvas.put(Region(1, 2, 3, 4), parts)
    both = first.put(Region(3, 5, 2, 3), torch.ones(1, 3, 2, 3))
    cut = both.cut(Region(2, 4, 3, 3))
    assert cut.shape == (2, 3, 3, 3)
    assert torch.equal(cut[:, :, 0, :2], parts[:, :, 1, 2:]), "floats, not rounded to bytes"
    assert (cut[:, :, 1:, 1:] == 1).all(), "later parts lie over earlier ones"
    for row, image in enumerate(both.images()):
        shown = np.asarray(image)
        untouched = np.ones((6, 9), bool)
        untouched[1:4, 2:6] = untouched[3:5, 5:8] = False
        assert np.array_equal(shown[untouched], pixels[untouched]) and (shown[3:5, 5:8] == 255).all()
        assert both.variation(row).images()[0].tobytes() == image.tobytes()
    assert len(canvas.cut(Region(0, 0, 2, 2))) == len(first.cut(Region(0, 0, 1, 2))) == 1


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_fills_keep_what_is_known_and_stay_within_its_range(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(2, 3, height, width, generator=generator)
    known = torch.rand(2, 1, height, width, generator=generator) < 0.3
    some = known.flatten(1).any(dim=1)
    spread = filled(values, known)
    assert torch.allclose(spread.where(known, 0), values.where(known, 0), atol=1e-6)
    for one, shown, mask, any_known in zip(values, spread, known, some, strict=True):
        if any_known:
            inside = one[:, mask[0]]
            assert (shown >= inside.amin(1)[:, None, None] - 1e-4).all()
            assert (shown <= inside.amax(1)[:, None, None] + 1e-4).all()
        else:
            assert torch.equal(shown, one)


def test_a_fill_of_a_ramp_is_smooth() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    known = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    known[..., 8:24, 8:24] = False
    assert (spread_inward(ramp, known) - ramp).abs().max() < 0.25
    assert (filled(ramp, known).diff(dim=3).abs()).max() < 0.2


def test_depths() -> None:
    mask = torch.zeros(1, 1, 7, 7)
    mask[..., 1:6, 1:6] = 1
    depth = depth_below(mask, 9)[0, 0]
    assert depth[3, 3] == 3 and depth[1, 1] == 1 and depth[2, 3] == 2 and depth[0, 0] == 0
    assert depth_below(mask, 2).max() == 2


@pytest.mark.parametrize("feather", [0, 3])
def test_composites_keep_pixels_to_the_bit_and_close_the_step(feather: int) -> None:
    torch.manual_seed(0)
    original, generated = torch.full((1, 3, 32, 32), 0.3), torch.full((2, 3, 32, 32), -0.2)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    result = composite(original, generated, mask, feather=feather)
    kept = (mask == 0).expand_as(result)
    assert torch.equal(result[kept], original.expand_as(result)[kept])
    step = (result[..., 8, 16] - original[..., 7, 16]).abs().max()
    assert step == pytest.approx(0.5 if feather == 0 else 0, abs=1e-5)
    assert result[0, 0, 16, 16] == pytest.approx(-0.2, abs=1e-5), "deep inside it is what was generated"
    half = composite(original, generated, mask * 0.5, feather=0)
    assert half[0, 0, 16, 16] == pytest.approx(0.05)
