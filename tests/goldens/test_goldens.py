"""The package makes what it made when `record.py` was last run: images, losses, weights, help and reports.

Arithmetic in floating point differs between processors, so a few tokens and the last digits of losses may, too. With
NEXTSCALE_GOLDENS=exact, on the machine that recorded, everything has to be equal.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import numpy as np
import pytest

from goldens.record import HELP, HERE, SCALES, Toys, record_demo, record_families, record_help, record_reports

EXACT = os.environ.get("NEXTSCALE_GOLDENS") == "exact"
only_exact = pytest.mark.skipif(not EXACT, reason="equal only on the machine that recorded")
LOOSE = ("accuracy", "used", "perplexity", "psnr", "adaptive_weight", "score")
"""Parts of the names of metrics that a single other token changes visibly."""


def recorded(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


DEMO, FAMILIES, REPORTS = recorded("demo"), recorded("families"), recorded("reports")


@pytest.fixture(scope="session")
def demo() -> dict[str, Any]:
    return record_demo()


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return Toys(tmp_path_factory.mktemp("goldens"))


@pytest.fixture(scope="session")
def families(toys: Toys) -> dict[str, Any]:
    return record_families(toys)


@pytest.fixture(scope="session")
def reports(toys: Toys) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(toys.folder / "cache"))
        return record_reports(toys)


@pytest.fixture(scope="session")
def pages() -> dict[str, str]:
    return record_help()


def test_nothing_is_added_or_lost(demo: dict, families: dict, reports: dict, pages: dict) -> None:
    assert list(demo) == list(DEMO)
    assert list(families) == list(FAMILIES)
    assert list(reports) == list(REPORTS)
    assert sorted(pages) == sorted(path.name for path in HELP.glob("*.txt"))


@pytest.mark.parametrize("name", DEMO)
def test_the_bundled_models_draw_the_same(demo: dict[str, Any], name: str) -> None:
    now, before = demo[name], DEMO[name]
    ours, theirs = np.array(now["tokens"]), np.array(before["tokens"])
    assert ours.shape == theirs.shape
    assert (ours == theirs).mean() >= 0.99
    assert (now["classes"], now["seeds"]) == (before["classes"], before["seeds"])
    if EXACT:
        assert now == before


@pytest.mark.parametrize("name", FAMILIES)
def test_training_computes_the_same(families: dict[str, Any], name: str) -> None:
    now, before = families[name]["metrics"], FAMILIES[name]["metrics"]
    assert [list(line) for line in now] == [list(line) for line in before]
    for ours, theirs in zip(now, before, strict=True):
        for metric, value in theirs.items():
            loose = any(part in metric for part in LOOSE)
            wanted = 1e-6 if EXACT else 0.05 if loose else 1e-3
            assert ours[metric] == pytest.approx(value, rel=wanted, abs=wanted), (theirs["step"], metric)


@pytest.mark.parametrize("name", FAMILIES)
def test_runs_hold_the_same(families: dict[str, Any], name: str) -> None:
    assert families[name]["shapes"] == FAMILIES[name]["shapes"]
    assert families[name]["files"] == FAMILIES[name]["files"]


@only_exact
@pytest.mark.parametrize("kind", SCALES)
def test_trained_models_draw_the_same(families: dict[str, Any], kind: str) -> None:
    assert families[kind]["drawn"] == FAMILIES[kind]["drawn"]


@pytest.mark.parametrize("name", REPORTS)
def test_reports_have_the_same_entries(reports: dict[str, Any], name: str) -> None:
    assert reports[name]["schema"] == REPORTS[name]["schema"]
    assert list(reports[name]["values"]) == list(REPORTS[name]["values"])


@only_exact
@pytest.mark.parametrize("name", REPORTS)
def test_reports_have_the_same_values(reports: dict[str, Any], name: str) -> None:
    assert reports[name]["values"] == pytest.approx(REPORTS[name]["values"], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", sorted(path.name for path in HELP.glob("*.txt")))
def test_help_reads_the_same(pages: dict[str, str], name: str) -> None:
    before = (HELP / name).read_text(encoding="utf-8")
    if EXACT:
        assert pages[name] == before
    else:  # other versions of what draws the page break lines elsewhere
        assert words(pages[name]) == words(before)


def words(page: str) -> list[str]:
    """The words of a page, sorted: where lines break decides how columns mix."""
    return sorted(re.sub(r"[─│╭╮╰╯]", " ", page).split())
