"""Power laws recover known exponents; frontiers and forecasts are what they should be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.scaling.fits import UNIT, fit_family, fit_floored_law, fit_power_law, frontier, predict_depth
from toys import scaling_results


@given(st.floats(-1.5, -0.005), st.floats(1e-9, 1e3), st.integers(3, 9))
def test_exact_laws_are_recovered(exponent: float, scale: float, count: int) -> None:
    x = np.logspace(5, 9, count)
    law = fit_power_law(x.tolist(), ((scale * x) ** exponent).tolist())
    assert law.exponent == pytest.approx(exponent, rel=1e-6)
    assert law.correlation == pytest.approx(-1, abs=1e-6)
    assert law(1e10) == pytest.approx((scale * 1e10) ** exponent, rel=1e-5)


def test_noisy_laws_are_recovered_within_their_interval() -> None:
    rng = np.random.default_rng(0)
    x, inside = np.logspace(5, 8, 8), 0
    for _ in range(300):
        y = (2e-9 * x) ** -0.2 * np.exp(rng.normal(0, 0.02, 8))
        low, high = fit_power_law(x.tolist(), y.tolist()).exponent_interval
        inside += low <= -0.2 <= high
    assert 0.90 <= inside / 300 <= 0.99, "95 % intervals hold the truth about 95 % of the time"


@pytest.mark.parametrize("floor", [0.5, 2.0, 3.3])
def test_floors_are_recovered(floor: float) -> None:
    x = np.logspace(5, 8, 7)
    rng = np.random.default_rng(1)
    y = floor + (1e-6 * x) ** -0.3
    exact = fit_floored_law(x.tolist(), y.tolist())
    assert exact.floor == pytest.approx(floor, rel=0.01) and exact.exponent == pytest.approx(-0.3, rel=0.02)
    noisy = fit_floored_law(x.tolist(), (y * np.exp(rng.normal(0, 0.001, 7))).tolist())
    assert noisy.floor == pytest.approx(floor, rel=0.1)
    assert noisy(1e9) == pytest.approx(floor + 1e3**-0.3, rel=0.03)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, 3], [1, 0, 1]), ([1, 2, math.nan], [1, 2, 3])]
)
def test_what_is_no_law_is_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="a power law"):
        fit_power_law(x, y)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=30))
def test_the_frontier_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    x, y = zip(*points, strict=True)
    kept = frontier(x, y)
    for place in range(len(points)):
        beaten = any(
            (x[other] <= x[place] and y[other] <= y[place]) and (x[other], y[other]) != (x[place], y[place])
            for other in range(len(points))
        )
        assert (place in kept) <= (not beaten)
        if not beaten:
            assert any((x[k], y[k]) == (x[place], y[place]) for k in kept)
    assert [x[k] for k in kept] == sorted(x[k] for k in kept)


def test_a_family_is_fitted_and_forecast() -> None:
    results = scaling_results((1, 2, 3, 4, 6))
    report = fit_family(results)
    assert report["loss"]["parameters"]["exponent"] == pytest.approx(-0.2)
    assert report["loss_last"]["parameters"]["scale"] == pytest.approx(2e-9, rel=1e-6)
    assert report["error"]["forecast"]["relative_error"] == pytest.approx(0, abs=1e-9)
    assert report["error"]["forecast"]["depth"] == 6
    assert report["loss"]["compute_frontier"]["exponent"] < 0
    assert predict_depth(results, 10)["loss"]["power_law"] == pytest.approx((1e-9 * UNIT * 1000) ** -0.2, rel=1e-6)
