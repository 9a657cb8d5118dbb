"""Accessibility of every tab, light and dark, by axe-core, which npm installs for the explained page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api as playwright

from browsing import NO_CHROMIUM, settle

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    pytest.mark.slow,
    NO_CHROMIUM,
    pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm ci in web/)"),
]


def faults(page: playwright.Page) -> list[Any]:
    """Serious and critical faults; in the dark, of colours, which are all that changes."""
    found = []
    for theme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
        settle(page)
        for one in page.evaluate("rules => axe.run(document, rules)", {"resultTypes": ["violations"], **rules})[
            "violations"
        ]:
            if one["impact"] in ("serious", "critical"):
                found.append((theme, one["id"], one["help"], [node["html"][:160] for node in one["nodes"][:3]]))
    return found


def test_axe_finds_nothing_serious(page: playwright.Page, photo: Path) -> None:
    page.evaluate(AXE.read_text(encoding="utf-8"))
    page.locator("#generate-start").click()
    page.get_by_text("4 images of blue").wait_for()
    page.locator("#generate-gallery .thumbnail-item").first.click()
    for closed in ("Sampling", "Settings from a picture", "Grid"):
        page.get_by_role("button", name=closed).click()
    found = faults(page)
    page.get_by_role("tab", name="Edit").click()
    settle(page)
    if (place := page.locator("#edit-canvas input[type=file]")).count():  # no image is there at first
        found += faults(page)
        place.first.set_input_files(str(photo))
    page.locator("#edit-canvas canvas").first.wait_for()
    found += faults(page)
    page.get_by_role("tab", name="Inspect").click()
    page.locator("#inspect-image input[type=file]").set_input_files(str(photo))
    page.locator("#inspect-image img").wait_for()
    page.get_by_role("button", name="Inspect", exact=True).click()
    page.get_by_text("bits per pixel").wait_for()
    found += faults(page)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-race .replay").get_by_text("Replay").wait_for()
    found += faults(page)
    page.get_by_role("tab", name="Scaling").click()
    page.locator("#scaling-chart .mark").first.focus()
    page.get_by_text("Numbers").click()
    found += faults(page)
    assert not found, json.dumps(found, indent=1)
