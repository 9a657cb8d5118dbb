"""Settings of edits, by name and over configs, and the best of several candidates."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.editing.config import EditConfig
from nextscale.pipeline import VARPipeline
from nextscale.sampling.rejection import Candidates, Rejection
from nextscale.sampling.step import SamplingConfig
from toys import centre, noise, pixels, toy_image


def test_settings_of_edits_are_keyword_arguments(pipeline: VARPipeline) -> None:
    image, mask = toy_image(0, 0), centre(16, 16)

    def made(**settings: Any) -> bytes:
        return pipeline.inpaint(image, mask, classes="red", **settings).images[0].tobytes()

    choices: list[dict[str, Any]] = [{"feather": 0}, {"method": "blend", "keep_scales": 1}]
    for chosen in choices:
        assert made(**chosen) == made(editing=EditConfig(**chosen)) != made()
    assert made(editing=EditConfig(method="blend", feather=9), feather=0) == made(method="blend", feather=0)
    both = SamplingConfig(top_k=3, temperature=2.0)
    assert made(config=SamplingConfig(top_k=3), temperature=2.0) == made(config=both)
    with_feather = [pipeline.outpaint(image, left=8, classes="red", feather=n).images[0].tobytes() for n in (0, 4)]
    assert with_feather[1] == pipeline.outpaint(image, left=8, classes="red").images[0].tobytes() != with_feather[0]
    small = image.resize((8, 8))
    deeper = pipeline.upscale(small, classes="red", keep_scales=4, feather=0)
    larger = pixels(small.resize((16, 16), Image.Resampling.LANCZOS))
    assert torch.equal(deeper.tokens.packed, pipeline.tokenizer.encode(larger).packed)


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


def test_out_of_range_settings_of_edits_are_refused(pipeline: VARPipeline) -> None:
    with pytest.raises(ValueError, match="feather must be at least 0"):
        pipeline.inpaint(toy_image(0, 0), None, feather=-1)
    with pytest.raises(ValueError, match="no first scales to keep"):
        pipeline.outpaint(toy_image(0, 0), left=3, keep_scales=1)


def test_guidance_counts_by_the_squared_share_made_anew_for_auto_alone(pipeline: VARPipeline) -> None:
    image, mask = toy_image(0, 0), centre(16, 16)
    editor = pipeline.editor(image, mask)
    assert editor.first.share == pytest.approx(0.25)
    softened = pipeline.inpaint(image, mask, seeds=range(4))
    divided = pipeline.inpaint(image, mask, seeds=range(4), guidance=pipeline.config.guidance / 16)
    assert torch.equal(softened.tokens.packed, divided.tokens.packed)
    named = pipeline.inpaint(image, mask, classes="red", seeds=range(4))
    full = pipeline.inpaint(image, mask, classes="red", seeds=range(4), guidance=pipeline.config.guidance)
    assert torch.equal(named.tokens.packed, full.tokens.packed)
    everything = pipeline.inpaint(image, None, classes="red", seeds=range(4))
    assert torch.equal(everything.tokens.packed, pipeline.generate("red", seeds=range(4)).tokens.packed)


def test_the_best_of_several_candidates_is_kept(pipeline: VARPipeline) -> None:
    image, mask = toy_image(0, 0), centre(16, 16)
    best = pipeline.inpaint(image, mask, classes="red", seeds=[1, 2], rejection=Rejection(candidates=3))
    every = pipeline.inpaint(image, mask, classes="red", seeds=range(3, 9))
    conditional, unconditional = (pipeline.log_likelihood(every.tokens, c).double() for c in ("red", None))
    scores = (conditional - unconditional)[:, :1].sum(1) + 0.2 * unconditional[:, 1:].sum(1)
    rows = [int(scores[start : start + 3].argmax()) + start for start in (0, 3)]
    assert best.seeds == [3 + row for row in rows]
    assert best.scores == pytest.approx(scores[rows].tolist(), abs=1e-2)
    assert [one.tobytes() for one in best.images] == [every.images[row].tobytes() for row in rows]


def test_candidates_are_whole_edits_and_their_scores_add_up(pipeline: VARPipeline) -> None:
    wide, ends = noise(300, 18), [(4, 4, 14, 14), (288, 2, 296, 10)]

    def judge(candidates: Candidates) -> torch.Tensor:
        return candidates.accumulated.flatten(1)[:, :8].sum(dim=1)

    best = pipeline.inpaint(
        wide, ends, classes="red", seeds=[5], temperature=3.0, rejection=Rejection(candidates=3, keep=2, judge=judge)
    )
    scores = {}
    for seed in (15, 16, 17):
        editor = pipeline.editor(wide, ends)
        steps = list(pipeline.edit_steps(editor, classes="red", seeds=[seed], temperature=3.0))
        scores[seed] = float(sum(steps[last].accumulated.flatten()[:8].sum() for last in (3, 7)))
    order = sorted(scores, key=lambda seed: -scores[seed])[:2]
    assert best.seeds == order and best.scores == pytest.approx([scores[seed] for seed in order], abs=1e-4)
    again = pipeline.inpaint(wide, ends, classes="red", seeds=order, temperature=3.0)
    assert [one.tobytes() for one in best.images] == [one.tobytes() for one in again.images]
    with pytest.raises(ValueError, match="name classes"):
        pipeline.inpaint(wide, ends, classes=[None], rejection=Rejection(candidates=2))
