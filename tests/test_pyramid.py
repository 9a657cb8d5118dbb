"""Schedules and pyramids of any sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale import ScaleSchedule, TokenPyramid
from nextscale.pyramid import parse_schedule


@st.composite
def schedules(draw: st.DrawFn) -> ScaleSchedule:
    """Any sizes that never shrink: repeats, one scale, a first above 1x1, non-square."""
    count = draw(st.integers(1, 6))
    heights = sorted(draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)))
    widths = sorted(draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)))
    return ScaleSchedule(list(zip(heights, widths, strict=True)))


@given(schedules())
def test_slices_tile_the_sequence(schedule: ScaleSchedule) -> None:
    positions = [p for scale in range(len(schedule)) for p in range(schedule.length)[schedule.slice(scale)]]
    assert positions == list(range(schedule.length))
    assert schedule.length == sum(h * w for h, w in schedule)


@given(schedules())
def test_mask_lets_a_token_see_its_scale_and_all_coarser(schedule: ScaleSchedule) -> None:
    scale_of = [scale for scale, (h, w) in enumerate(schedule) for _ in range(h * w)]
    expected = [[scale_of[key] <= scale_of[query] for key in range(len(scale_of))] for query in range(len(scale_of))]
    assert schedule.mask().tolist() == expected
    assert schedule.levels().tolist() == scale_of


@given(schedules(), st.integers(1, 3))
def test_maps_pack_and_unpack(schedule: ScaleSchedule, batch: int) -> None:
    packed = torch.arange(batch * schedule.length).view(batch, -1)
    pyramid = TokenPyramid(packed, schedule)
    assert [tuple(token_map.shape) for token_map in pyramid] == [(batch, h, w) for h, w in schedule]
    assert torch.equal(TokenPyramid.from_maps(list(pyramid), schedule).packed, packed)


@given(schedules())
def test_text_round_trip(schedule: ScaleSchedule) -> None:
    assert parse_schedule(str(schedule)) == schedule


def test_published_schedule_has_680_tokens() -> None:
    assert ScaleSchedule([1, 2, 3, 4, 5, 6, 8, 10, 13, 16]).length == 680


@pytest.mark.parametrize("sizes", [[], [0], [2, 1], [(1, 2), (2, 1)], [(1, 2, 3)], [1.5], ["a"]])
def test_bad_sizes_are_refused(sizes: list) -> None:
    with pytest.raises(ValueError, match="size"):
        ScaleSchedule(sizes)


@pytest.mark.parametrize("text", ["", "a", "1,b", "1x2x3", "-1"])
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_schedule(text)


def test_pyramid_refuses_wrong_shapes_and_types() -> None:
    schedule = ScaleSchedule([1, 2])
    with pytest.raises(ValueError, match=r"\(batch, 5\)"):
        TokenPyramid(torch.zeros(1, 4, dtype=torch.long), schedule)
    with pytest.raises(ValueError, match="integers"):
        TokenPyramid(torch.zeros(1, 5), schedule)
    with pytest.raises(ValueError, match="expected 2 token maps"):
        TokenPyramid.from_maps([torch.zeros(1, 1, 1, dtype=torch.long)], schedule)
    with pytest.raises(ValueError, match="token map 1"):
        TokenPyramid.from_maps([torch.zeros(1, 1, 1, dtype=torch.long)] * 2, schedule)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 60))
def test_groups_are_runs_of_whole_scales(sides: list[int], smallest: int) -> None:
    schedule = ScaleSchedule(sorted(sides))
    groups = schedule.groups(smallest)
    assert [i for span in groups for i in range(span.start, span.stop)] == list(range(schedule.length))
    assert {span.stop for span in groups} <= set(schedule.ends)
    if schedule.length >= smallest:
        assert min(span.stop - span.start for span in groups) >= smallest
    else:
        assert len(groups) == 1


def test_groups_of_the_official_schedule() -> None:
    schedule = ScaleSchedule([1, 2, 3, 4, 5, 6, 8, 10, 13, 16])
    assert [(span.start, span.stop) for span in schedule.groups(128)] == [(0, 155), (155, 424), (424, 680)]
