"""Charts of results, and the results that the package holds."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.scaling.fits import FIGURES, read_results
from nextscale.studio.charts import Axis, Series, chart_html, log_ticks, number_text, round_ticks
from nextscale.studio.result_charts import COMPUTE, SIZE, Compared, ScalingRuns, bundled_results, result_sets
from nextscale.studio.scaling import chart_or_reason

ROOT = Path(__file__).parents[2]


def runs(folder: Path, depths: int = 4, exponent: float = -0.1) -> None:
    folder.mkdir()
    for depth in range(1, depths + 1):
        size = 1e6 * depth**3
        figures = dict.fromkeys(FIGURES, 5 * size**exponent)
        curve = [{"flops": size * step, **figures} for step in (1e6, 1e7)]
        facts = {"kind": "var", "depth": depth, "parameters": size, "curve": curve}
        (folder / f"var-d{depth}.json").write_text(json.dumps(facts | figures))


def test_results_are_found_and_drawn(tmp_path: Path) -> None:
    runs(tmp_path / "scaling")
    (tmp_path / "scaling" / "other.json").write_text("[1]")
    sets = result_sets((tmp_path / "scaling",))
    assert list(sets) == ["scaling: scaling of var"]
    together = tmp_path / "all.json"
    together.write_text(json.dumps({"results": read_results([tmp_path / "scaling"])}))
    for place in (tmp_path, together):
        assert result_sets((place,))[f"{tmp_path.name}/all: scaling of var"] == sets["scaling: scaling of var"]
    page = sets["scaling: scaling of var"].chart("loss", SIZE)
    assert page.count('class="mark') == 4 and "power law, exponent -0.1<" in page
    assert "depth 2: 8 M parameters, loss, all scales 1.02" in page and "0.0 % too" in page
    assert sets["scaling: scaling of var"].chart("error", COMPUTE).count('class="mark') == 8


def test_too_few_depths_are_told_in_place_of_the_chart(tmp_path: Path) -> None:
    runs(tmp_path / "few", depths=2)
    (found,) = result_sets((tmp_path / "few",)).values()
    assert "Nothing to draw: a power law needs at least three depths, got 2." in chart_or_reason(found, "loss", SIZE)


def test_bundled_results_are_those_of_the_documentation() -> None:
    spec = importlib.util.spec_from_file_location("bundle_results", ROOT / "docs" / "bundle_results.py")
    assert spec and spec.loader
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, values in script.bundled().items():
        path = script.BUNDLED / f"{name}.json"
        assert json.loads(path.read_text()) == values, "python docs/bundle_results.py"
        assert path.stat().st_size < 10_000


def test_every_bundled_chart_can_be_drawn() -> None:
    sets = bundled_results()
    assert [type(one) for one in sets.values()] == [ScalingRuns, ScalingRuns, Compared]
    for one in sets.values():
        for figure in one.figures:
            for over in one.costs:
                page = one.chart(figure, over)
                assert page.count('class="mark') >= 5 and "<table>" in page
                places = [float(place) for place in re.findall(r'class="mark[^>]*left:([-\d.]+)%', page)]
                assert all(0 < place < 100 for place in places)


def test_charts_escape_and_name_what_they_show() -> None:
    x, y = Axis.around("<x>", [1.0, 100.0], log=True), Axis.around("y", [0.0, 10.0])
    page = chart_html("<title>", x, y, [Series("<one>", [(10.0, 5.0)], ["<point>"], spreads=[1.0])], "<note>")
    assert not re.search("<(x|title|one|point|note)>", page)
    assert 'aria-label="&lt;point&gt;" style="left:50.00%;bottom:50.00%"' in page
    with pytest.raises(ValueError, match="nothing to draw"):
        Axis.around("x", [0.0, 1.0], log=True)


@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6), about=st.integers(2, 10))
def test_round_ticks_are_round_and_inside(low: float, width: float, about: int) -> None:
    ticks = round_ticks(low, low + width, about)
    assert len(ticks) <= about + 1
    assert all(low - 1e-6 * width <= tick <= low + width + 1e-6 * width for tick in ticks)


@given(low=st.floats(1e-6, 1e6), factor=st.floats(1.5, 1e9))
def test_logarithmic_ticks_are_inside(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert 2 <= len(ticks) <= 20 and ticks == sorted(ticks)
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)
    assert math.isfinite(sum(ticks))


def test_numbers_are_short() -> None:
    assert [number_text(value) for value in (73728, 2.3e6, 0.97312, 0, 4e14)] == [
        "73.73 k",
        "2.3 M",
        "0.9731",
        "0",
        "400 T",
    ]
