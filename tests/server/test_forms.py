"""Uploads are read as everything else is: upright, masks by what they mean, and edits of several regions."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nextscale.editing.config import EditConfig
from nextscale.pipeline import VARPipeline
from nextscale.sampling.next_scale import SamplingConfig
from nextscale.server.forms import transparent_part, uploaded_image, uploaded_mask
from nextscale.server.jobs import Edit, Job
from nextscale.server.local import run_jobs

MOST = 10_000


def stored(image: Image.Image, turn: int = 1, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


def test_the_transparent_part_is_that_of_the_image_as_it_is_shown() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[:8, :, 3] = 0
    data = stored(Image.fromarray(pixels), turn=6)
    image, clear = uploaded_image(data, MOST), transparent_part(data, MOST)
    assert image.shape == (24, 16, 3) and clear is not None and clear.shape == (24, 16)
    assert (clear[:, 8:] == 1).all() and (clear[:, :8] == 0).all() and (image[clear > 0] == 255).all()
    pixels[..., 3] = 250
    assert transparent_part(stored(Image.fromarray(pixels)), MOST) is None, "nearly opaque is opaque"
    assert transparent_part(stored(Image.new("L", (4, 4))), MOST) is None


def test_masks_of_zeros_and_ones_and_strokes_are_what_they_mean() -> None:
    hole = np.zeros((16, 24), np.uint8)
    hole[2:6, 3:9] = 1
    strokes = np.zeros((16, 24, 4), np.uint8)
    strokes[hole > 0] = 255
    for mask in (Image.fromarray(hole), Image.fromarray(strokes), Image.fromarray(np.where(hole, 255, 4).astype("u1"))):
        assert np.array_equal(uploaded_mask(stored(mask), (16, 24), MOST), hole)
        turned = uploaded_mask(stored(mask, turn=8), (24, 16), MOST)
        assert np.array_equal(turned, np.rot90(hole))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not a PNG, JPEG or WebP image"),
        (stored(Image.new("L", (8, 8)), kind="TIFF"), "not a PNG, JPEG or WebP image"),
        (stored(Image.new("L", (200, 100))), "has 200 x 100 pixels; at most 10,000 are taken"),
        (stored(Image.effect_noise((64, 64), 50))[:900], "truncated"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_way(data: bytes, message: str) -> None:
    for name, read in (
        ("image", lambda: uploaded_image(data, MOST)),
        ("mask", lambda: uploaded_mask(data, (64, 64), MOST)),
        ("image", lambda: transparent_part(data, MOST)),
    ):
        with pytest.raises(ValueError, match=f"{name}: .*{message}") as caught:
            read()
        assert len(str(caught.value).splitlines()) == 1


def test_an_edit_of_two_regions_shows_no_more_previews_than_were_asked_for(pipeline: VARPipeline) -> None:
    image = np.random.default_rng(0).integers(0, 256, (18, 300, 3), dtype=np.uint8)
    mask = np.zeros((18, 300), np.float32)
    mask[4:14, 4:14] = mask[2:10, 288:296] = 1
    sampling = SamplingConfig(guidance=1.0, top_k=0, top_p=0.0)
    edit = Edit(image, mask, EditConfig(feather=0))
    job = Job(seed=3, label=2, sampling=sampling, edit=edit, previews=frozenset((0, 2)))
    stages = [stage for (stage,) in run_jobs(pipeline, [job], lambda row: True) if stage is not None]
    assert [(stage.scale, stage.final) for stage in stages] == [(0, False), (2, False), (3, True)]
    wanted = pipeline.inpaint(image, mask, classes="red", seeds=[3], config=sampling, feather=0)
    assert np.array_equal(stages[-1].image, np.asarray(wanted.images[0]))
    assert stages[-1].label == 2
