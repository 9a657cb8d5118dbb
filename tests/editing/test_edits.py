"""Edits of a toy model: what is kept, what is regenerated, and that both are what they should be."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.data.decode import read_image
from nextscale.editing.apply import likely_classes
from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS
from nextscale.pictures import to_float
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import TokenPyramid
from nextscale.sampling.rejection import Rejection
from toys import centre, noise, pixels, toy_image


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


def test_the_best_of_several_candidates_is_kept(pipeline: VARPipeline) -> None:
    image, mask = toy_image(0, 0), centre(16, 16)
    best = pipeline.inpaint(image, mask, classes="red", seeds=[1, 2], rejection=Rejection(candidates=3))
    every = pipeline.inpaint(image, mask, classes="red", seeds=range(3, 9))
    given, free = (pipeline.log_likelihood(every.tokens, c).double() for c in ("red", None))
    scores = (given - free)[:, :1].sum(1) + 0.2 * free[:, 1:].sum(1)
    rows = [int(scores[start : start + 3].argmax()) + start for start in (0, 3)]
    assert best.seeds == [3 + row for row in rows]
    assert best.scores == pytest.approx(scores[rows].tolist(), abs=1e-2)
    assert [one.tobytes() for one in best.images] == [every.images[row].tobytes() for row in rows]


def test_tokens_of_an_empty_mask_are_the_images(pipeline: VARPipeline) -> None:
    empty = pipeline.inpaint(toy_image(0, 0), np.zeros((16, 16)), classes="red")
    assert isinstance(empty.tokens, TokenPyramid)
    assert torch.equal(empty.tokens.packed, pipeline.tokenizer.encode(pixels(toy_image(0, 0))).packed)


def test_guidance_counts_by_the_squared_share_made_anew_for_auto_alone(pipeline: VARPipeline) -> None:
    image, mask = toy_image(0, 0), centre(16, 16)
    editor = pipeline.editor(image, mask)
    assert editor.first.share == pytest.approx(0.25)
    softened = pipeline.inpaint(image, mask, seeds=range(4))
    by_hand = pipeline.inpaint(image, mask, seeds=range(4), guidance=pipeline.config.guidance / 16)
    assert torch.equal(softened.tokens.packed, by_hand.tokens.packed)
    named = pipeline.inpaint(image, mask, classes="red", seeds=range(4))
    full = pipeline.inpaint(image, mask, classes="red", seeds=range(4), guidance=pipeline.config.guidance)
    assert torch.equal(named.tokens.packed, full.tokens.packed)
    everything = pipeline.inpaint(image, None, classes="red", seeds=range(4))
    assert torch.equal(everything.tokens.packed, pipeline.generate("red", seeds=range(4)).tokens.packed)


def test_no_boxes_are_told(pipeline: VARPipeline, caplog: pytest.LogCaptureFixture) -> None:
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
