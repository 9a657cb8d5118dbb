"""Edits of a toy model: what is kept, what is regenerated, and that both are what they should be."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.cli import main
from nextscale.data.decode import read_image
from nextscale.editing.apply import likely_classes
from nextscale.editing.config import EditConfig
from nextscale.editing.hooks import METHODS, EvidenceHook, Together
from nextscale.editing.masks import mask_of_boxes
from nextscale.editing.outpaint import Expansion, parse_expansion, window_size, windows
from nextscale.pictures import to_float, to_tensor
from nextscale.pipeline import VARPipeline
from nextscale.pyramid import TokenPyramid
from nextscale.runtime import image_generator
from nextscale.sampling.next_scale import SamplingConfig, sample_scales
from nextscale.sampling.rejection import Candidates, Rejection
from toys import toy_image

PLAIN = SamplingConfig(guidance=0.0, top_k=0, top_p=0.0)


def pixels(image: Image.Image) -> torch.Tensor:
    return to_tensor([image])


def big_image(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def centre(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    return mask


def sampled(pipeline: VARPipeline, method: str, image: torch.Tensor, kept: torch.Tensor, **options: float):
    hook = METHODS[method](pipeline.tokenizer, image, kept)
    for name, value in options.items():
        setattr(hook, name, value)
    steps = sample_scales(
        pipeline.transformer, pipeline.tokenizer.quantizer, torch.tensor([1, 2]),
        generators=[image_generator(0), image_generator(1)], config=PLAIN, hook=hook,
    )  # fmt: skip
    return list(steps)


def packed(steps: list) -> torch.Tensor:
    return torch.cat([step.tokens.flatten(1) for step in steps], dim=1)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_kept_is_plain_sampling(pipeline: VARPipeline, method: str) -> None:
    image = pixels(toy_image(0, 0))
    steps = sampled(pipeline, method, image, torch.zeros(1, 1, 4, 4))
    plain = pipeline.generate([1, 2], seeds=[0, 1], config=PLAIN).tokens
    if method == "embeddings":  # the authors' rule takes the first scale from the original whatever the mask
        assert torch.equal(packed(steps)[:, :1], pipeline.tokenizer.encode(image).packed[:, :1].expand(2, 1))
    else:
        assert torch.equal(packed(steps), plain.packed)


def test_the_authors_rule_puts_the_originals_tokens_where_more_than_half_is_kept(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(0, 0))
    kept = torch.zeros(1, 1, 4, 4)
    kept[..., :2] = 1
    steps = sampled(pipeline, "embeddings", image, kept)
    original = pipeline.tokenizer.encode(image)
    for step in steps[1:]:
        size = step.tokens.shape[1:]
        keeps = torch.nn.functional.interpolate(kept, size=size, mode="bilinear")[0, 0] > 0.5
        assert torch.equal(step.tokens[:, keeps], original[step.scale][:, keeps].expand(2, -1))
    assert (steps[-1].tokens != original[3]).any()


def test_blending_follows_the_original_where_it_is_kept(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(0, 0))
    kept = torch.zeros(1, 1, 4, 4)
    kept[..., :2] = 1
    states = pipeline.tokenizer.quantizer.states(pipeline.tokenizer.encode(image))
    for step, state in zip(sampled(pipeline, "blend", image, kept), states, strict=True):
        assert torch.allclose(step.accumulated[..., :2], state.accumulated[..., :2].expand(2, -1, -1, -1), atol=1e-6)


def test_all_the_evidence_is_encoding(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(2, 3))
    steps = sampled(pipeline, "evidence", image, torch.ones(1, 1, 4, 4), strength=1e6)
    assert torch.equal(packed(steps), pipeline.tokenizer.encode(image).packed.expand(2, -1))


def test_evidence_is_the_posterior_by_hand(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(2, 3))
    kept = torch.rand(1, 1, 4, 4)
    hook = EvidenceHook(pipeline.tokenizer, image, kept, strength=1.5)
    logits = torch.randn(1, 4, 32)
    accumulated = torch.randn(1, 8, 4, 4)
    ours = hook.logits(1, logits, accumulated).log_softmax(-1)
    rest = hook.target - accumulated
    with torch.no_grad():
        for place, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            cell = (0, slice(None), slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            share = kept[cell].mean()
            mean = (rest[cell] * kept[cell]).flatten(1).sum(1) / kept[cell].sum()
            squares = (mean - pipeline.tokenizer.quantizer.codebook).square().sum(1)
            slow = logits[0, place] - 1.5 * share * squares / (2 * hook.variances[1].flatten())
            assert torch.allclose(ours[0, place], slow.log_softmax(-1), atol=1e-4)


def test_the_variance_is_that_of_what_is_kept(pipeline: VARPipeline) -> None:
    image = pixels(toy_image(2, 3))
    kept = torch.zeros(1, 1, 4, 4)
    kept[..., :1] = 1
    hook = EvidenceHook(pipeline.tokenizer, image, kept)
    *_, last = pipeline.tokenizer.quantizer.states(pipeline.tokenizer.encode(image))
    rest = (hook.target - last.accumulated)[..., :1]
    assert float(hook.variances[-1].detach()) == pytest.approx(float(rest.square().mean().detach()), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("smooth", [False, True])
def test_a_hook_keeps_nothing_of_its_last_run(pipeline: VARPipeline, method: str, smooth: bool) -> None:
    kept = torch.zeros(1, 1, 4, 4)
    kept[..., :2] = 1
    hook = Together(METHODS[method](pipeline.tokenizer, pixels(toy_image(0, 0)), kept))

    def run(seed: int) -> torch.Tensor:
        *_, last = pipeline.generate_steps(["red"], seeds=[seed], hook=hook, smooth=smooth, temperature=4.0, top_k=0)
        return last.accumulated

    first, other = run(0), run(1)
    assert torch.equal(run(0), first) and not torch.equal(first, other)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(16, 16), (40, 24), (9, 11)])
def test_what_is_kept_stays_to_the_pixel(pipeline: VARPipeline, method: str, size: tuple[int, int]) -> None:
    image, mask = big_image(size[1], size[0]), centre(*size)
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


def test_a_large_photo_is_edited_around_the_mask(pipeline: VARPipeline) -> None:
    image = big_image(500, 300)
    result = pipeline.inpaint(image, [(480, 280, 495, 299)], classes="red")
    changed = (np.asarray(result.images[0]) != np.asarray(image)).any(axis=2)
    assert changed[280:299, 480:495].any() and not changed[:280].any() and not changed[:, :480].any()


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


def test_outpainting_keeps_the_image_and_its_cost_is_linear(pipeline: VARPipeline) -> None:
    image = big_image(16, 16)
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
        inside = window.cover(mask) > 0
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


def test_the_commands(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    toy_image(0, 0).save(tmp_path / "image.png")
    Image.fromarray(centre(16, 16)).save(tmp_path / "mask.png")
    image, model, out = str(tmp_path / "image.png"), ["--model", str(model_folder)], tmp_path / "out"
    mask = ["--mask", str(tmp_path / "mask.png")]
    assert (
        main(["edit", "inpaint", image, *model, *mask, "--out", str(out / "a.png"), "--json", str(out / "a.json")]) == 0
    )
    assert main(["edit", "inpaint", image, *model, "--boxes", "4,4,12,12", "--out", str(out / "b.png")]) == 0
    assert (out / "a.png").read_bytes() == (out / "b.png").read_bytes(), "the box is the mask"
    many = ["--count", "3", "--seed", "5", "--strips", "--classes", "red"]
    assert main(["edit", "class", image, *model, *many, "--out", str(out / "c.png")]) == 0
    assert {p.name for p in out.glob("c*")} == {"c-000.png", "c-001.png", "c-002.png", "c-grid.png", "c-strips.png"}
    assert Image.open(out / "c-strips.png").size == (6 * 18 - 2, 3 * 18 - 2)
    assert main(["edit", "outpaint", image, *model, "--expand", "left=8", "--out", str(out / "d.png")]) == 0
    assert Image.open(out / "d.png").size == (24, 16)
    toy_image(0, 0).resize((5, 7)).save(tmp_path / "small.png")
    assert main(["edit", "upscale", str(tmp_path / "small.png"), *model, "--out", str(out / "e.png")]) == 0
    assert Image.open(out / "e.png").size == (16, 16)
    assert "1 image (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("inpaint", [], "name what to regenerate"),
        ("inpaint", ["--boxes", "1,2,3"], "'1,2,3' is not a box"),
        ("inpaint", ["--boxes", "0,0,99,9"], "does not lie in the image"),
        ("inpaint", ["--boxes", "0,0,9,9", "--method", "magic"], "method 'magic' is not known"),
        ("inpaint", ["--boxes", "0,0,9,9", "--out", "x.jpg"], "expected a file that ends in .png"),
        ("inpaint", ["--boxes", "0,0,9,9", "--count", "0"], "count must be at least 1"),
        ("inpaint", ["--boxes", "0,0,9,9", "--classes", "gren"], "did you mean green"),
        ("inpaint", ["--mask", "nowhere.png"], "mask nowhere.png: there is no such file"),
        ("class", ["--keep-scales", "9"], "keep_scales is 9, the model has 4 scales"),
        ("outpaint", ["--expand", "up=1"], "'up=1' is not understood"),
        ("outpaint", [], "--expand is missing"),
        ("upscale", [], "pixels already"),
    ],
)
def test_wrong_edits_are_refused(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, command: str, flags: list[str], message: str
) -> None:
    toy_image(0, 0).save(tmp_path / "image.png")
    out = [] if "--out" in flags else ["--out", str(tmp_path / "out.png")]
    assert main(["edit", command, str(tmp_path / "image.png"), "--model", str(model_folder), *out, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out.png").exists()


def test_images_that_are_not_there(model_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["edit", "inpaint", "nowhere.png", "--boxes", "0,0,9,9", "--model", str(model_folder)]) == 2
    assert "nowhere.png: there is no such file" in capsys.readouterr().err


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


ENDS = [(4, 4, 14, 14), (288, 2, 296, 10)]


@pytest.fixture
def wide() -> Image.Image:
    return big_image(300, 18)


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
    long, mask = big_image(90, 18), np.zeros((18, 90), np.uint8)
    mask[6:12, 10:80] = 1
    image = np.asarray(pipeline.inpaint(long, mask, classes="red").images[0])
    assert np.array_equal(image[mask == 0], np.asarray(long)[mask == 0])
    changed = (image != np.asarray(long)).any(axis=2)[mask > 0].reshape(6, 70)
    assert changed.mean(axis=0).min() > 0.5


def test_settings_of_edits_are_keyword_arguments(pipeline: VARPipeline) -> None:
    image, mask = toy_image(0, 0), centre(16, 16)

    def made(**settings: Any) -> bytes:
        return pipeline.inpaint(image, mask, classes="red", **settings).images[0].tobytes()

    choices: list[dict[str, Any]] = [{"feather": 0}, {"method": "blend", "keep_scales": 1}]
    for given in choices:
        assert made(**given) == made(editing=EditConfig(**given)) != made()
    assert made(editing=EditConfig(method="blend", feather=9), feather=0) == made(method="blend", feather=0)
    both = SamplingConfig(top_k=3, temperature=2.0)
    assert made(config=SamplingConfig(top_k=3), temperature=2.0) == made(config=both)
    with_feather = [pipeline.outpaint(image, left=8, classes="red", feather=n).images[0].tobytes() for n in (0, 4)]
    assert with_feather[1] == pipeline.outpaint(image, left=8, classes="red").images[0].tobytes() != with_feather[0]
    small = image.resize((8, 8))
    deeper = pipeline.upscale(small, classes="red", keep_scales=4, feather=0)
    assert torch.equal(deeper.tokens.packed, pipeline.tokenizer.encode(
        pixels(small.resize((16, 16), Image.Resampling.LANCZOS))).packed)  # fmt: skip


@pytest.mark.parametrize("name", ["inpaint", "edit", "outpaint", "upscale", "generate", "generate_steps", "editor"])
def test_unknown_settings_name_their_neighbours(pipeline: VARPipeline, name: str) -> None:
    image, drawn = toy_image(0, 0), {"classes": ["red"], "seeds": [0]}
    arguments: dict[str, tuple[list, dict]] = {
        "inpaint": ([image, centre(16, 16)], {}), "edit": ([image], {"classes": "red"}),
        "outpaint": ([image], {"left": 3}), "upscale": ([image.resize((8, 8))], {}),
        "generate": ([], drawn), "generate_steps": ([], drawn), "editor": ([image], {}),
    }  # fmt: skip
    positional, named = arguments[name]
    wrong = {"guidence": 1.0} if name.startswith("generate") else {"fether": 0}
    near = "guidance" if name.startswith("generate") else "feather"
    with pytest.raises(ValueError, match=f"setting '{next(iter(wrong))}' is not known; did you mean {near}") as caught:
        getattr(pipeline, name)(*positional, **named, **wrong)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match="setting 'zzz' is not known; known are "):
        getattr(pipeline, name)(*positional, **named, zzz=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feather": "4"}, "feather must be a whole number, got '4'"),
        ({"feather": 2.5}, "feather must be a whole number, got 2.5"),
        ({"top_k": None, "guidance": "high"}, "guidance must be a number, got 'high'"),
        ({"seed": 3}, "setting 'seed' is not known; did you mean seeds"),
        ({"method": "magic"}, "method 'magic' is not known"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused_in_one_line(
    pipeline: VARPipeline, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.inpaint("nowhere.png", None, **settings)
    plain = pipeline.inpaint(toy_image(0, 0), None, classes="red", top_k=3, guidance=1)
    numpys = pipeline.inpaint(toy_image(0, 0), None, classes="red", top_k=np.int64(3), guidance=np.float32(1))
    assert numpys.images[0].tobytes() == plain.images[0].tobytes()


def test_no_boxes_are_told(pipeline: VARPipeline, caplog: pytest.LogCaptureFixture) -> None:
    assert pipeline.inpaint(toy_image(0, 0), [], classes="red").images[0].tobytes() == toy_image(0, 0).tobytes()
    assert "boxes: keeps everything" in caplog.text


def test_out_of_range_settings_of_edits_are_refused(pipeline: VARPipeline) -> None:
    with pytest.raises(ValueError, match="feather must be at least 0"):
        pipeline.inpaint(toy_image(0, 0), None, feather=-1)
    with pytest.raises(ValueError, match="no first scales to keep"):
        pipeline.outpaint(toy_image(0, 0), left=3, keep_scales=1)


def test_images_in_any_form_are_edited_upright_and_over_white(pipeline: VARPipeline, tmp_path: Path) -> None:
    image = big_image(24, 16)
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


def test_the_command_tells_of_masks_that_change_nothing_or_all(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    big_image(24, 16).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    command = ["edit", "inpaint", str(tmp_path / "phone.jpg"), "--model", str(model_folder), "--strips"]
    for number, said in ((0, "nothing will change"), (1, "everything will change")):
        Image.fromarray(np.full((24, 16), number, np.uint8)).save(tmp_path / "mask.png")
        out = ["--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "out.png")]
        assert main([*command, *out]) == 0
        error = capsys.readouterr().err
        assert error.count(said) == 1 and "mask.png: " in error
        after, before = Image.open(tmp_path / "out.png"), read_image(tmp_path / "phone.jpg")
        assert after.size == (16, 24) and (after.tobytes() == before.tobytes()) == (number == 0)
