"""The tabs Compare and Scaling in a real browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright import sync_api as playwright

from browsing import NO_CHROMIUM, WAIT
from nextscale.results import GenerationStep
from nextscale.studio import compare
from nextscale.studio.desk import Desk

pytestmark = [pytest.mark.slow, NO_CHROMIUM]


def clocks(page: playwright.Page) -> list[str]:
    return [text.split(",")[0] for text in page.locator("#compare-race .clock").all_inner_texts()]


def test_a_comparison_is_there_and_is_replayed(page: playwright.Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.get_by_text("4 steps against 4 steps").wait_for()
    replay, time = page.locator("#compare-race .replay"), page.get_by_label("Time of the comparison")
    playwright.expect(replay).to_have_text("Replay", timeout=WAIT)  # it was played once
    assert clocks(page) == ["4 of 4 steps"] * 2
    assert page.locator("#compare-race img:visible").count() == 2
    time.focus()
    page.keyboard.press("Home")
    playwright.expect(replay).to_have_text("Go on", timeout=WAIT)
    assert clocks(page) == ["0 of 4 steps"] * 2
    assert page.locator("#compare-race .to-come:visible").count() == 2, "what is not drawn is grey"
    assert re.fullmatch(r"0\.0+ s", time.get_attribute("aria-valuetext") or "")
    page.locator("#compare-race").get_by_label("real").check()
    replay.click()
    playwright.expect(replay).to_have_text("Replay", timeout=WAIT)
    assert clocks(page) == ["4 of 4 steps"] * 2
    assert page.locator("#compare-race img:visible").count() == 2


def test_a_comparison_outlives_the_page_and_is_not_computed_again(
    page: playwright.Page, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-race").get_by_label("1/4").check()
    page.locator("#compare-seed input").fill("7")
    page.locator("#compare-start").click()
    page.get_by_text("blue, seed 7").wait_for()
    playwright.expect(page.locator("#compare-start")).to_have_text("Start both", timeout=WAIT)
    outcome = page.locator("#compare-race .outcome").inner_text()
    assert outcome.startswith("4 steps against 4 steps: ")
    assert page.locator("#compare-race").get_by_label("1/4").is_checked(), "the chosen speed is kept"
    monkeypatch.setattr(desk.rival, "generate_steps", None)
    page.reload()
    page.get_by_role("tab", name="Compare").click()
    playwright.expect(page.locator("#compare-race .outcome")).to_have_text(outcome, timeout=WAIT)


def test_a_comparison_is_stopped(page: playwright.Page, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    go, rival = threading.Event(), desk.rival
    assert rival is not None
    steps = rival.generate_steps

    def slowly(*values: Any, **settings: Any) -> Iterator[GenerationStep]:
        for step in steps(*values, **settings):
            yield step
            assert go.wait(300)

    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-race .replay").get_by_text("Replay").wait_for()
    monkeypatch.setattr(compare, "LIVE", -1.0)
    monkeypatch.setattr(compare, "quick", lambda _: False)  # no image that is not timed
    monkeypatch.setattr(rival, "generate_steps", slowly)
    page.locator("#compare-start").click()
    page.locator("#compare-race").get_by_text("so far").wait_for()
    page.locator("#compare-stop").click()
    go.set()
    page.get_by_text("Stopped.").wait_for()
    assert page.locator("#compare-race .outcome").inner_text().endswith("so far")
    assert page.locator("#compare-race .replay").count() == 0
    playwright.expect(page.locator("#compare-start")).to_be_enabled(timeout=WAIT)


def test_charts_answer_the_pointer_and_the_keyboard(page: playwright.Page) -> None:
    page.get_by_role("tab", name="Scaling").click()
    chart = page.locator("#scaling-chart")
    chart.get_by_text("Loss, all scales, over parameters N").wait_for()
    marks = chart.locator(".mark")
    assert marks.count() == 5 and not marks.first.locator(".says").is_visible()
    marks.first.hover()
    assert marks.first.locator(".says").is_visible()
    page.mouse.move(0, 0)
    marks.nth(4).focus()
    assert "depth 5" in marks.nth(4).locator(".says").inner_text()
    chart.get_by_label("measured").uncheck()
    assert chart.locator(".mark:visible").count() == 0
    for label, option in (("Figure", "token error, last scale"), ("Over", "training compute C, FLOP")):
        page.get_by_label(label, exact=True).click()
        page.get_by_role("option", name=option).click()
    chart.get_by_text("Token error, last scale, over training compute C, FLOP").wait_for()
    assert chart.locator(".mark:visible").count() == 25
    page.get_by_label("Results", exact=True).click()
    page.get_by_role("option", name="bundled/families: comparison").click()
    chart.get_by_text("Frechet distance over seconds per image").wait_for()
    assert chart.locator(".mark:visible").count() == 5
