"""What the studio's tabs compute, without a browser."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.cli import main
from nextscale.editing.apply import EditConfig
from nextscale.families import family_of
from nextscale.pictures import psnr, to_images, to_tensor
from nextscale.pipeline import VARPipeline
from nextscale.sampling.rejection import Rejection
from nextscale.studio.anatomy import attention_part, scales_of, stage_of
from nextscale.studio.app import run_studio
from nextscale.studio.desk import NO_CLASS, SETTINGS_KEY, Desk, seed_of, settings_in, take_files
from nextscale.studio.figures import strip_of
from nextscale.studio.generate import generate_controls, generate_live, listed, sampling_controls
from nextscale.studio.grids import grid_live, numbers
from nextscale.studio.history import chosen_of
from nextscale.studio.inspection import (
    additions,
    attention_of,
    attention_shares,
    codebook_usage,
    cropping,
    heat,
    inspect_image,
    mask_picture,
    summary,
)
from nextscale.studio.painter import NOTHING, inline_png, mask_of, painted_upload
from nextscale.studio.pictures import PREVIEW, RegionPreview, encoded, fitted, paced
from nextscale.studio.retouch import AFTER, BEFORE, INPAINT, OUTPAINT, WHOLE, PaintedImage, edit_live
from toys import make_baseline, make_pipeline, toy_image


@pytest.fixture
def desk(pipeline: VARPipeline, tmp_path: Path) -> Desk:
    return Desk(pipeline, "toy", folder=tmp_path, previews=math.inf)


def test_previews_are_small_and_of_the_edited_region_and_the_result_is_whole(desk: Desk) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 700, 3), dtype=np.uint8)
    mask = np.zeros((600, 700), np.float32)
    mask[50:550, 400:440] = 1
    *_, last = frames = list(
        edit_live(desk, PaintedImage(Image.fromarray(noise), mask), INPAINT, "red", 2, 0, (), EditConfig())
    )
    steps = [image for frame in frames for _, image in frame.stages or ()]
    kept = [Image.open(Path(path).with_name(name)) for path, _ in last.files or [] for name in (BEFORE, AFTER)]
    seen = [picture for frame in frames for picture in (*(frame.pair or ()), *steps, *kept) if picture]
    assert len(seen) >= 3 * len(desk.pipeline.schedule)
    assert all(max(picture.size) <= PREVIEW for picture in seen)
    assert last.pair and last.pair[0].height == PREVIEW, "600 pixels of the mask and what is around it"
    assert np.array_equal(np.asarray(last.pair[1])[:, :20], np.asarray(last.pair[0])[:, :20])
    assert not np.array_equal(np.asarray(last.pair[1]), np.asarray(last.pair[0]))
    for path, _ in last.files or []:
        whole = np.asarray(Image.open(path))
        assert whole.shape == noise.shape
        assert np.array_equal(whole[mask == 0], noise[mask == 0])


def test_previews_of_a_region_that_reaches_beyond_the_image(desk: Desk) -> None:
    editor = desk.pipeline.editor(toy_image(0, 0, 40).resize((24, 14)), None)
    preview = RegionPreview(editor.first)
    assert preview.before().size == (24, 14)


def test_holes_far_apart_are_shown_one_after_the_other(desk: Desk) -> None:
    image = toy_image(0, 0, 40).resize((300, 40))
    mask = np.zeros((40, 300), np.float32)
    mask[10:20, 5:15] = mask[10:20, 280:290] = 1
    frames = list(edit_live(desk, PaintedImage(image, mask), INPAINT, "red", 2, 0, (), EditConfig()))
    assert [frame.status for frame in frames[3:5]] == ["Scale 4 of 4, part 1 of 2", "Scale 1 of 4, part 2 of 2"]
    last = frames[-1]
    assert last.pair and last.pair[0].size == (300, 40)
    assert [Image.open(Path(path).with_name(AFTER)).size for path, _ in last.files or []] == [(300, 40)] * 2
    wanted = desk.pipeline.inpaint(image, mask, classes="red", seeds=[0, 1]).images
    assert [Image.open(path).tobytes() for path, _ in last.files or []] == [one.tobytes() for one in wanted]


def test_pictures_are_files_of_few_bytes(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8))
    assert fitted(noise).size == (512, 384)
    assert fitted(noise, 1000) is noise
    small = Image.open(encoded(noise.crop((0, 0, 64, 64)), tmp_path))
    assert (small.format, small.tobytes()) == ("PNG", noise.crop((0, 0, 64, 64)).tobytes())
    assert Image.open(encoded(noise, tmp_path)).format == "JPEG"
    assert encoded(noise, tmp_path) != encoded(noise, tmp_path), "a page would show the old one"


def test_previews_cost_no_more_than_their_share() -> None:
    now = 0.0

    def steps() -> Iterator[int]:
        nonlocal now
        for number in range(8):
            now += 1.0
            yield number

    def clock() -> float:
        return now

    shown = []
    for number, wanted in paced(steps(), share=0.5, clock=clock):
        if wanted:
            shown.append(number)
            now += 1.0
    assert shown == [0, 3, 5, 7]
    assert [wanted for _, wanted in paced(steps(), share=math.inf, clock=clock)] == [True] * 8


def test_scales_without_time_follow_when_the_images_are_done(desk: Desk) -> None:
    desk.previews = 0.0
    frames = list(generate_live(desk, "green", 2, 5, guidance=1.0, top_k=4, top_p=0.9))
    assert [frame.picture is None for frame in frames] == [True, True, True, True, False, True]
    assert frames[4].files and not frames[5].files
    desk.previews = math.inf
    *_, wanted = generate_live(desk, "green", 2, 5, guidance=1.0, top_k=4, top_p=0.9)
    assert len(frames[5].stages) == len(wanted.stages) == 2
    for stages, other in zip(frames[5].stages, wanted.stages, strict=True):
        assert [label for label, _ in stages] == ["1 x 1", "2 x 2", "3 x 3", "4 x 4"]
        assert [one.tobytes() for _, one in stages if one] == [one.tobytes() for _, one in other if one]


def test_the_chosen_image_is_not_a_number(desk: Desk) -> None:
    made = [(desk.saved(toy_image(0, 0), {"class": "blue", "seed": seed}), f"blue, seed {seed}") for seed in (0, 1)]
    clicked = {"image": {"path": made[1][0]}, "caption": made[1][1]}
    assert chosen_of(made, clicked) == made[1]
    assert chosen_of([(desk.saved(toy_image(1, 0), {"class": "blue", "seed": 1}), "new"), *made], clicked) == made[1]
    assert chosen_of(made, {"image": {"path": "/etc/passwd"}}) is None
    assert chosen_of(made, None) is None


def test_all_files_go_with_the_desk(pipeline: VARPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Page:
        def close(self, *, verbose: bool) -> None:
            closed.append(verbose)

    def opened(desk: Desk, **_: object) -> Page:
        desk.saved(toy_image(0, 0), {"class": "blue", "seed": 0})
        take_files(desk.folder)
        return Page()

    def interrupted(_: float) -> bool:
        raise KeyboardInterrupt

    closed: list[bool] = []
    monkeypatch.setattr("nextscale.studio.app.open_page", opened)
    desk = Desk(pipeline, "toy")
    assert desk.folder.parent == tmp_path
    monkeypatch.setattr(desk.switched, "wait", interrupted)
    run_studio(desk, host="127.0.0.1", port=1, open_browser=False)
    assert closed == [False]
    assert not list(tmp_path.iterdir())
    assert "GRADIO_TEMP_DIR" not in os.environ
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="no temporary folder can be made .*; set TMPDIR to a writable folder"):
        Desk(pipeline, "toy")


def test_images_appear_scale_by_scale_and_hold_their_settings(desk: Desk, pipeline: VARPipeline) -> None:
    frames = list(generate_live(desk, "green", 2, 5, guidance=1.0, top_k=4, top_p=0.9))
    assert len(frames) == len(pipeline.schedule) + 1
    assert all(frame.files is None for frame in frames[:-1])
    wanted = pipeline.generate("green", seeds=[5, 6], guidance=1.0, top_k=4, top_p=0.9).images
    for (path, caption), image, seed in zip(frames[-1].files or [], wanted, (5, 6), strict=True):
        saved = Image.open(path)
        assert saved.tobytes() == image.tobytes() and str(seed) in caption
        facts = json.loads(saved.text[SETTINGS_KEY])  # type: ignore[attr-defined]
        assert (facts["class"], facts["seed"], facts["guidance"], facts["top_k"]) == ("green", seed, 1.0, 4)
    with pytest.raises(ValueError, match="top_p must be between 0 and 1"):
        list(generate_live(desk, "green", 1, 0, guidance=1.0, top_k=0, top_p=7.0))


def test_settings_are_read_back_from_a_picture(desk: Desk, tmp_path: Path) -> None:
    typed: dict[str, Any] = {"guidance": 1.5, "temperatures": listed("3,1"), "top_k": 4}
    *_, last = generate_live(desk, "green", 1, 5, **typed)
    with gr.Blocks():
        controls = generate_controls(desk)
    facts = settings_in((last.files or [])[0][0])
    again = controls.reused(desk, facts)
    assert (again[controls.name], again[controls.seed], again[controls.lock]) == ("green", 5, True)
    assert {name: again[controls.sampling[name]] for name in typed} == {**typed, "temperatures": "3.0,1.0"}
    with pytest.raises(ValueError, match="of the class purple, which toy does not have"):
        controls.reused(desk, facts | {"class": "purple"})
    toy_image(0, 0).save(plain := tmp_path / "plain.png")
    with pytest.raises(ValueError, match="plain.png: holds no settings"):
        settings_in(str(plain))


def test_the_likeliest_candidate_is_kept_with_the_seed_that_draws_it(desk: Desk, pipeline: VARPipeline) -> None:
    *_, last = generate_live(desk, "green", 2, 5, candidates=3, top_k=4)
    best = pipeline.generate("green", seeds=[5, 6], top_k=4, rejection=Rejection(candidates=3)).images
    assert last.files and len(last.stages) == 2
    for (path, _), wanted, stages in zip(last.files, best, last.stages, strict=True):
        alone = pipeline.generate("green", seeds=[settings_in(path)["seed"]], top_k=4).images[0]
        saved = Image.open(path).tobytes()
        assert saved == wanted.tobytes() == alone.tobytes() == (stages[-1][1] or wanted).tobytes()
    with pytest.raises(ValueError, match="name classes"):
        list(generate_live(desk, NO_CLASS, 1, 0, candidates=2))


def test_a_grid_holds_every_class_guidance_and_seed(desk: Desk, pipeline: VARPipeline) -> None:
    cells = list(grid_live(desk, ["red", NO_CLASS], numbers("0, 2"), [3, 4]))
    assert [line for line, _, _ in cells] == [f"{count} of 8 images, seeds 3, 4" for count in (2, 4, 6, 8)]
    wanted = pipeline.generate("red", seeds=[3, 4], guidance=2.0).images
    assert [Image.open(path).tobytes() for path, _ in cells[1][2]] == [one.tobytes() for one in wanted]
    table = cells[-1][1]
    assert table.count("<img") == 8 and 'alt="red, guidance 2, seed 4"' in table
    assert len(ZipFile(desk.zipped([file for _, _, files in cells for file in files])).namelist()) == 8
    for names, strengths in (([], [1.0]), (["red"] * 40, [1.0])):
        with pytest.raises(ValueError, match="a grid has 1 to 64 images"):
            list(grid_live(desk, names, strengths, [0, 1]))
    with pytest.raises(ValueError, match="numbers with commas"):
        numbers("1;2")


def test_steps_say_what_they_are_and_keep_their_place() -> None:
    strip = strip_of('<"blue">', [("1 x 1", toy_image(0, 0)), ("2 x 2", None)])
    assert strip.count("<img") == 1 and strip.count("to-come") == 1 and strip.count("<figcaption>") == 2
    assert 'alt="&lt;&quot;blue&quot;&gt;: 1 x 1"' in strip and '<"blue">' not in strip


def test_images_with_settings_per_scale(desk: Desk, pipeline: VARPipeline) -> None:
    typed: dict[str, Any] = {"temperatures": listed("3, 1,0.5,"), "spatial_guidance": listed("2")}
    *_, last = generate_live(desk, "green", 1, 5, guided_scales=2, **typed)
    saved = Image.open((last.files or [])[0][0])
    own: dict[str, Any] = {"guided_scales": 2, "temperatures": [3, 1, 0.5]}
    wanted = pipeline.generate("green", seeds=[5], spatial_guidance=2, **own).images[0]
    assert saved.tobytes() == wanted.tobytes() != pipeline.generate("green", seeds=[5]).images[0].tobytes()
    facts = json.loads(saved.text[SETTINGS_KEY])  # type: ignore[attr-defined]
    assert (facts["guided_scales"], facts["temperatures"], facts["spatial_guidance"]) == (2, [3, 1, 0.5], [2])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("1,1,1,1,1", "temperatures: settings of 5 scales, the model has 4"),
        ("1,warm", "temperatures must be numbers above 0, one per scale"),
        ("0", "temperatures must be numbers above 0, one per scale"),
    ],
)
def test_wrong_temperatures_are_told_in_one_line(desk: Desk, typed: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(generate_live(desk, "green", 1, 0, temperatures=listed(typed)))
    assert listed("") == listed(None) == []


def test_only_models_with_scales_show_settings_of_them() -> None:
    def shown(pipeline: VARPipeline) -> list[str]:
        with gr.Blocks():
            return list(sampling_controls(pipeline))

    plain, scales = ["guidance", "top_k", "top_p"], ["guided_scales", "temperatures", "spatial_guidance"]
    assert shown(make_pipeline()) == [*plain, *scales]
    assert shown(make_pipeline(refinable=True)) == [*plain, *scales, "refine_steps"]
    assert shown(make_baseline("raster")) == plain


def test_no_class_is_unconditional(desk: Desk, pipeline: VARPipeline) -> None:
    *_, last = generate_live(desk, NO_CLASS, 1, 3, guidance=2.0, top_k=8, top_p=0.9)
    assert Image.open(last.files[0][0]).tobytes() == pipeline.generate(None, seeds=[3]).images[0].tobytes()  # type: ignore[index]


def test_edits_of_the_painted_part(desk: Desk, pipeline: VARPipeline) -> None:
    image = toy_image(0, 0, 20)
    layer = np.zeros((520, 520, 4), np.uint8)  # a canvas is larger than a small image
    layer[130:390, 130:390] = 255
    layer[390:396] = 255
    painted = mask_of(NOTHING | {"mask": inline_png(Image.fromarray(layer))})
    canvas = PaintedImage.of(image, painted)
    assert canvas.mask.sum() == 100, "a pixel counts where most of it is painted"
    *_, last = edit_live(desk, canvas, INPAINT, "red", 2, 4, (0, 0, 0, 0), EditConfig())
    wanted = pipeline.inpaint(image, canvas.mask, classes="red", seeds=[4, 5]).images
    assert [Image.open(path).tobytes() for path, _ in last.files or []] == [one.tobytes() for one in wanted]
    blank = PaintedImage(image, np.zeros((20, 20), np.float32))
    with pytest.raises(ValueError, match="nothing is painted"):
        list(edit_live(desk, blank, INPAINT, "red", 1, 0, (0,) * 4, EditConfig()))
    with pytest.raises(ValueError, match="there is no image yet"):
        PaintedImage.of(None)
    with pytest.raises(ValueError, match="at most 25,000,000"):
        PaintedImage.of(Image.new("1", (6000, 6000)))
    huge = inline_png(Image.new("1", (3000, 2)))
    for wrong in ("data:image/png;base64,!", "data:image/png;base64,aGVsbG8=", huge):
        with pytest.raises(ValueError, match="the mask cannot be read: paint it again"):
            mask_of({"mask": wrong})
    assert mask_of(NOTHING) is None


def test_edits_around_and_of_the_whole(desk: Desk, pipeline: VARPipeline) -> None:
    canvas = PaintedImage.of(toy_image(1, 0, 16))
    *steps, around = edit_live(desk, canvas, OUTPAINT, "auto", 1, 0, (8, 0, 0, 4), EditConfig())
    wanted = pipeline.outpaint(canvas.image, left=8, bottom=4, seeds=[0]).images[0]
    assert Image.open(around.files[0][0]).tobytes() == wanted.tobytes()  # type: ignore[index]
    assert len(steps) >= 4 and all(one.pair and one.pair[1].size == (24, 20) for one in steps), "previews of all of it"
    assert len({one.pair[1].tobytes() for one in steps if one.pair}) == len(steps)
    with pytest.raises(ValueError, match="out-painting has no first scales to keep"):
        list(edit_live(desk, canvas, OUTPAINT, "auto", 1, 0, (8, 0, 0, 4), EditConfig(keep_scales=1)))
    assert Image.open(around.files[0][0]).size == (24, 20)  # type: ignore[index]
    assert around.pair
    before, after = around.pair
    assert before.size == after.size == (24, 20)
    assert before.crop((8, 0, 24, 16)).tobytes() == canvas.image.tobytes(), "what was there is where it was put"
    *_, whole = edit_live(desk, canvas, WHOLE, "red", 1, 0, (0,) * 4, EditConfig(keep_scales=2))
    wanted = pipeline.edit(canvas.image, classes="red", seeds=[0], editing=EditConfig(keep_scales=2)).images[0]
    assert Image.open(whole.files[0][0]).tobytes() == wanted.tobytes()  # type: ignore[index]


def test_guidance_of_an_edit_is_the_models_unless_it_is_set(desk: Desk, pipeline: VARPipeline) -> None:
    image, mask = toy_image(0, 0), np.ones((16, 16), np.float32)
    mask[:8] = 0
    for guidance in (None, 0.0, 5.0):
        *_, last = edit_live(
            desk, PaintedImage(image, mask), INPAINT, "auto", 1, 3, (), EditConfig(), guidance=guidance
        )
        wanted = pipeline.inpaint(image, mask, seeds=[3], guidance=guidance).images[0]
        path = (last.files or [])[0][0]
        assert Image.open(path).tobytes() == wanted.tobytes()
        assert settings_in(path).get("guidance") == guidance


def test_scales_of_an_edit_without_time_follow_when_it_is_done(desk: Desk) -> None:
    desk.previews = 0.0
    canvas = PaintedImage(toy_image(0, 0), np.ones((16, 16), np.float32))
    *_, done, last = edit_live(desk, canvas, INPAINT, "red", 1, 3, (), EditConfig())
    assert done.files and done.pair and not last.files
    assert [label for label, image in last.stages or () if image] == ["1 x 1", "2 x 2", "3 x 3", "4 x 4"]


def test_a_result_is_edited_further_and_there_is_a_way_back(desk: Desk, tmp_path: Path) -> None:
    for name in ("first", "second"):
        toy_image(0, 0).save(tmp_path / f"{name}.png")
    first, second = str(tmp_path / "first.png"), str(tmp_path / "second.png")
    with gr.Blocks():
        place = painted_upload()
    further = place.continued(second, first, NOTHING | {"mask": "a mask"}, [])
    assert (further[place.source], further[place.past]) == (second, [(first, "a mask")])
    again = place.returned(further[place.past])
    assert (again[place.source], again[place.past]) == (first, [])
    assert again[place.canvas].constructor_args["value"]["start"] == "a mask"


def test_inspection_adds_up(pipeline: VARPipeline) -> None:
    image = toy_image(2, 0, 16)
    seen = inspect_image(pipeline, image)
    assert len(seen.stages) == 4 and len(seen.norms) == 5 and not seen.crop
    after = to_tensor([seen.stages[-1]])[0]
    assert seen.psnr[-1] == pytest.approx(float(psnr(to_tensor([image])[0], after)), abs=0.05)
    whole = pipeline.reconstruct(to_tensor([image]))
    assert seen.stages[-1].tobytes() == to_images(whole)[0].tobytes()
    assert seen.label == int(pipeline.class_log_likelihoods(seen.tokens)[0].argmax())
    assert torch.allclose(seen.likelihood, pipeline.log_likelihood(seen.tokens, seen.label)[0])
    table = codebook_usage(seen)
    assert [row[1] for row in table] == [1, 4, 9, 16]
    assert all(1 <= row[3] <= row[2] + 0.1 for row in table)  # type: ignore[operator]
    assert mask_picture(pipeline.schedule).width >= 384
    shares = attention_of(pipeline, seen, 2, 1, 1)
    assert shares.shape == (30,) and float(shares.sum()) == pytest.approx(1, abs=1e-5)
    assert not shares[14:].any(), "a token of the third scale looks at none of the fourth"
    maps = heat(shares, pipeline.schedule, 0.0, 1.0)
    assert [one.size for one in maps] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [one.size for one in additions(seen)] == [(16, 16)] * 4
    page = scales_of(seen)
    assert page.count("<img") == 12 and all(f'<th scope="col">{side} x {side}</th>' in page for side in range(1, 5))
    assert 'alt="Probability of its tokens, 3 x 3"' in page and page.count('class="bar"') == 2
    stage = stage_of(seen)
    assert stage.count("<img") == 5 and f"After scale 2 of 4: 2 x 2 tokens, PSNR {seen.psnr[1]:.1f} dB" in stage
    assert "row 2, column 2 of 3 x 3" in attention_part(pipeline.schedule, shares, 2, 1, 1)


def test_cropping_is_told(pipeline: VARPipeline) -> None:
    wide = inspect_image(pipeline, toy_image(2, 0, 64).resize((64, 40)))
    assert wide.crop == (
        "The image was cropped to the 40 x 40 pixels in its middle, and resized from 64 x 40 to 16 x 16 pixels."
    )
    assert summary(wide, [*pipeline.class_names, "none"]).endswith(wide.crop)
    assert cropping((64, 64), (16, 16)) == "The image was resized from 64 x 64 to 16 x 16 pixels."
    assert cropping((16, 16), (16, 16)) == ""


def test_attention_is_what_the_blocks_use(pipeline: VARPipeline) -> None:
    model, quantizer = pipeline.transformer, pipeline.tokenizer.quantizer
    tokens = pipeline.generate([0, 1], seeds=[0, 1]).tokens
    labels = torch.tensor([0, 1])
    shares = attention_shares(model, quantizer, tokens, labels)
    assert len(shares) == model.config.depth
    for one in shares:
        assert torch.allclose(one.sum(dim=-1), torch.ones(2, 30), atol=1e-5)
        assert not one[:, ~model.mask].any(), "a token looks at finer scales"
    # With values of one everywhere but at one key, the block's output is the attention to it.
    attention = model.blocks[0].attention
    seen: list[torch.Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pipeline.logits(tokens, [0, 1])
    hook.remove()
    query, key, value = attention.project(seen[0])
    factor = attention.softmax_scale
    marked = torch.zeros_like(value)
    marked[:, :, 7] = 1
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, marked, attn_mask=model.mask, scale=factor)
    assert torch.allclose(mixed.mean(dim=(1, 3)), shares[0][:, :, 7], atol=1e-5)


def test_seeds() -> None:
    assert seed_of(5, False) == 5
    assert seed_of(5, True) != seed_of(5, True)
    for wrong in (-1, 1.5, 2.0**60):
        with pytest.raises(ValueError, match="a seed is a whole number"):
            seed_of(wrong, False)


def test_the_demo_races_its_raster_sibling(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Desk] = []
    monkeypatch.setattr("nextscale.studio.app.run_studio", lambda desk, **_: opened.append(desk))
    assert main(["studio"]) == 0
    (desk,) = opened
    desk.close()
    assert desk.rival is not None
    assert [family_of(one.transformer.config).kind for one in (desk.pipeline, desk.rival)] == ["var", "raster"]
