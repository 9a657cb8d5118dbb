"""Comparisons: clocks, pictures with gaps, and the axis of time."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nextscale.pipeline import VARPipeline
from nextscale.studio import compare
from nextscale.studio.compare import picture_of, race_live
from nextscale.studio.desk import Desk
from nextscale.studio.race import GREY, Lane, caption_of, first_speed, kept_moments, race_html, with_gaps
from toys import make_baseline, make_pipeline, toy_image


@pytest.fixture
def desk(pipeline: VARPipeline, tmp_path: Path) -> Desk:
    return Desk(pipeline, "toy", rival=make_pipeline(seed=1), folder=tmp_path)


def test_two_models_race_by_their_own_clocks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "LIVE", -1.0)
    *going, (lanes, done) = race_live(desk, "blue", 2)
    assert done and not any(done for _, done in going)
    assert [lane.steps for lane in lanes] == [4, 4]
    assert len(going) >= 8 and all(len(lane.frames) <= 1 for lanes, _ in going for lane in lanes)
    wanted = [one.generate("blue", seeds=[2]).images[0] for one in (desk.pipeline, desk.rival) if one]
    assert [lane.frames[-1][1].tobytes() for lane in lanes] == [one.tobytes() for one in wanted]
    for lane in lanes:
        clock = [seconds for seconds, _ in lane.moments]
        assert clock == sorted(clock) and clock[0] > 0
        assert [number for number, _ in lane.frames] == [0, 1, 2, 3]
    for (before, _), (after, _) in itertools.pairwise(going):
        for mine, other in ((0, 1), (1, 0)):
            if after[mine].steps > before[mine].steps and before[other].steps < 4:
                assert before[mine].seconds <= before[other].seconds, "the model whose clock is behind goes on"


@pytest.mark.parametrize(("kind", "passes"), [("raster", 16), ("rq", 16), ("maskgit", 8), ("dit", 20)])
def test_clocks_count_passes_of_the_transformer(desk: Desk, kind: str, passes: int) -> None:
    desk.rival = make_baseline(kind, **({"sampling_steps": passes} if kind == "dit" else {}))
    *_, (lanes, _) = race_live(desk, "blue", 0)
    assert [lane.steps for lane in lanes] == [4, passes]
    assert caption_of(lanes).startswith(f"4 steps against {passes} steps: ")


@pytest.mark.parametrize("kind", ["raster", "maskgit"])
def test_tokens_that_are_not_drawn_are_grey(kind: str) -> None:
    rival = make_baseline(kind)
    first, *_, last = rival.generate_steps("blue", seeds=[0])
    shares = [(np.asarray(picture_of(step)) == GREY).all(-1).mean() for step in (first, last)]
    assert shares[1] == 0 and shares[0] >= 0.5
    if kind == "raster":
        assert shares[0] == 1 - 1 / rival.schedule.final[0], "all rows but the first"


def test_gaps_stand_where_tokens_are_missing() -> None:
    image = toy_image(0, 0, 16)
    shown = np.asarray(with_gaps(image, np.array([[True, False], [True, True]])))
    assert (shown[:8, 8:] == GREY).all()
    assert np.array_equal(shown[8:], np.asarray(image)[8:]) and np.array_equal(shown[:8, :8], np.asarray(image)[:8, :8])


@given(count=st.integers(1, 300), most=st.integers(1, 40))
def test_pictured_moments_are_even_and_reach_the_end(count: int, most: int) -> None:
    kept = kept_moments(count, most)
    assert len(kept) == min(count, most) and kept[-1] == count - 1
    gaps = np.diff([-1, *kept])
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_a_replay_begins_as_slow_as_is_not_long() -> None:
    assert [first_speed(seconds) for seconds in (0.6, 2.0, 60.0)] == [0.1, 0.25, 1.0]


def lane(*seconds: float, each: int = 1) -> Lane:
    image = Image.new("RGB", (4, 4))
    moments = [(one, each * number) for number, one in enumerate(seconds, start=1)]
    return Lane("<a>", moments, [(number, image) for number in range(len(seconds))])


def test_both_models_stand_on_one_axis_of_time() -> None:
    page = race_html([lane(0.02, 0.08), lane(0.31, 0.62, each=32)])
    assert "2 steps against 64 steps: 0.080&nbsp;s and 0.620&nbsp;s<" in page
    assert re.findall(r'<i [^>]*style="left:([\d.]+)%', page) == ["3.23", "12.90", "50.00", "100.00"]
    assert re.findall(r"%\">([\d.]+)(?: s)?</span>", page) == ["0", "0.2", "0.4", "0.6"]
    assert page.count("<img") == 4 and page.count("<div data-at") == 4 and "<a>" not in page
    assert page.count(" hidden") == 4, "the last picture of each is seen"
    running = race_html([lane(0.02), Lane("not begun")], running=True)
    assert "data-running" in running and "Replay" not in running and "so far" in running
