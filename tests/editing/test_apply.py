"""Edits of a toy model: what is kept, what is regenerated, in one region or in several."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.data.decode import read_image
from nextscale.editing import apply
from nextscale.editing.apply import likely_classes
from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS
from nextscale.editing.masks import mask_of_boxes
from nextscale.pictures import to_float
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.next_scale import sample_scales
from nextscale.sampling.step import ScaleSample
from toys import centre, make_pipeline, noise, pixels, toy_image

ENDS = [(4, 4, 14, 14), (288, 2, 296, 10)]


@pytest.fixture
def wide() -> Image.Image:
    return noise(300, 18)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(16, 16), (40, 24), (9, 11)])
def test_what_is_kept_stays_to_the_pixel(pipeline: VARPipeline, method: str, size: tuple[int, int]) -> None:
    image, mask = noise(size[1], size[0]), centre(*size)
    editing = EditConfig(method=method)
    result = pipeline.inpaint(image, mask, classes=["red"], seeds=range(6), editing=editing, temperature=3.0)
    before = np.asarray(image)
    for made in result.images:
        after = np.asarray(made)
        assert after.shape == before.shape
        assert np.array_equal(after[~mask], before[~mask])
        assert not np.array_equal(after[mask], before[mask])
    if method != "embeddings" or size == (16, 16):  # half of a position must be in the hole for their rule
        assert len({one.tobytes() for one in result.images}) > 1, "seeds differ"
    again = pipeline.inpaint(image, mask, classes=["red"], seeds=range(6), editing=editing, temperature=3.0)
    assert [one.tobytes() for one in again.images] == [one.tobytes() for one in result.images]
    assert result.tokens.packed.shape == (6, 30) and result.classes == [2] * 6


def test_a_model_whose_scales_see_themselves_alone_edits_too() -> None:
    pipeline, image, mask = make_pipeline(attention="scale"), noise(16, 16), centre(16, 16)
    made = [np.asarray(one) for one in pipeline.inpaint(image, mask, classes=["red"], seeds=range(4)).images]
    assert all(np.array_equal(one[~mask], np.asarray(image)[~mask]) for one in made)
    assert len({one.tobytes() for one in made}) > 1


def test_an_empty_mask_returns_the_image_and_a_full_one_generates(pipeline: VARPipeline) -> None:
    image = toy_image(0, 0)
    empty = pipeline.inpaint(image, np.zeros((16, 16)), classes="red", seeds=[3, 4])
    assert [one.tobytes() for one in empty.images] == [image.tobytes()] * 2
    full = pipeline.inpaint(image, np.ones((16, 16)), classes=["red", "blue"], seeds=[3, 4])
    plain = pipeline.generate(["red", "blue"], seeds=[3, 4])
    assert [one.tobytes() for one in full.images] == [one.tobytes() for one in plain.images]
    assert torch.equal(full.tokens.packed, plain.tokens.packed)


def test_keeping_scales(pipeline: VARPipeline) -> None:
    image = toy_image(1, 5)
    original = pipeline.tokenizer.encode(pixels(image))
    for scales in (1, 3):
        kept = pipeline.edit(image, classes="red", editing=EditConfig(keep_scales=scales)).tokens
        end = pipeline.schedule.ends[scales - 1]
        assert torch.equal(kept.packed[:, :end], original.packed[:, :end])
        assert not torch.equal(kept.packed, original.packed)
    whole = pipeline.edit(image, classes="red", editing=EditConfig(keep_scales=4))
    assert torch.equal(whole.tokens.packed, original.packed)
    rebuilt = pipeline.reconstruct(pixels(image))
    assert torch.equal(pixels(whole.images[0]), to_float((rebuilt + 1).mul(127.5).round().clamp(0, 255).byte()))
    smooth = pipeline.edit(image, classes="red", editing=EditConfig(keep_scales=4), smooth=True)
    assert smooth.images[0].tobytes() == whole.images[0].tobytes()
    with pytest.raises(ValueError, match="keep_scales is 5, the model has 4 scales"):
        pipeline.edit(image, classes="red", editing=EditConfig(keep_scales=5))


def test_the_likely_class_is_the_argmax_of_the_kept_tokens(pipeline: VARPipeline) -> None:
    images = torch.cat([pixels(toy_image(label, 0)) for label in range(3)])
    ours = likely_classes(pipeline.transformer, pipeline.tokenizer, images, torch.ones(1, 1, 4, 4))
    assert ours.tolist() == pipeline.class_log_likelihoods(pipeline.tokenizer.encode(images)).argmax(1).tolist()
    result = pipeline.inpaint(toy_image(0, 0), centre(16, 16))
    assert result.classes[0] in range(3)
    assert pipeline.inpaint(toy_image(0, 0), None).classes == [3], "nothing tells the class of a full mask"


def test_tokens_of_an_empty_mask_are_the_images(pipeline: VARPipeline) -> None:
    empty = pipeline.inpaint(toy_image(0, 0), np.zeros((16, 16)), classes="red")
    assert isinstance(empty.tokens, TokenPyramid)
    assert torch.equal(empty.tokens.packed, pipeline.tokenizer.encode(pixels(toy_image(0, 0))).packed)


def test_no_boxes_keep_everything(pipeline: VARPipeline, caplog: pytest.LogCaptureFixture) -> None:
    assert pipeline.inpaint(toy_image(0, 0), [], classes="red").images[0].tobytes() == toy_image(0, 0).tobytes()
    assert "boxes: keeps everything" in caplog.text


def test_images_in_any_form_are_edited_upright_and_over_white(pipeline: VARPipeline, tmp_path: Path) -> None:
    image = noise(24, 16)
    mask = np.zeros((24, 16), np.uint8)  # of the image as it is shown
    mask[:12] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    layered = image.convert("RGBA")
    layered.putalpha(Image.fromarray(np.where(np.indices((16, 24))[1] < 5, 0, 255).astype(np.uint8)))
    layered.save(tmp_path / "phone.png", exif=exif)
    shown = read_image(tmp_path / "phone.png")
    assert shown.size == (16, 24) and np.asarray(shown)[0].min() == 255
    wanted = pipeline.inpaint(shown, mask, classes="red").images[0]
    stored = (tmp_path / "phone.png").read_bytes()
    for source in (tmp_path / "phone.png", stored, Image.open(io.BytesIO(stored)), np.asarray(shown)):
        made = pipeline.inpaint(source, mask, classes="red").images[0]
        assert made.size == (16, 24) and made.tobytes() == wanted.tobytes()
    empty = pipeline.inpaint(Image.open(io.BytesIO(stored)), mask * 0, classes="red").images[0]
    assert empty.tobytes() == shown.tobytes()
    assert pipeline.outpaint(Image.open(io.BytesIO(stored)), left=4, classes="red").images[0].size == (20, 24)


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


def test_no_two_regions_have_the_same_noise(
    pipeline: VARPipeline, wide: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = []

    def recording(*given: object, stream: int, **others: object) -> Iterator[ScaleSample]:
        streams.append(stream)
        return sample_scales(*given, stream=stream, **others)

    monkeypatch.setattr(apply, "sample_scales", recording)
    pipeline.inpaint(wide, ENDS, classes="red", seeds=[1, 2])
    assert streams == [0, 1, 0, 1]


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
