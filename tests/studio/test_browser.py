"""The studio in a real browser: Debian's chromium through Playwright."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright import sync_api as playwright

from nextscale.studio.app import TABS, open_page
from nextscale.studio.desk import Desk
from toys import make_pipeline, toy_image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"),
]

ROOT = Path(__file__).parents[2]
WAIT = 30_000
"""Milliseconds that something on the page may take."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, results = tmp_path_factory.mktemp("studio"), (ROOT / "docs" / "results",)
    desk = Desk(make_pipeline(), "toy", rival=make_pipeline(seed=1), results=results, folder=folder)
    port = free_port()
    page = open_page(desk, host="127.0.0.1", port=port)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: playwright.Browser, url: str) -> Iterator[playwright.Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(WAIT)
    opened.goto(url)
    opened.get_by_role("button", name="Generate", exact=True).wait_for()
    yield opened
    opened.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    toy_image(2, 3, 64).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_an_image_appears_scale_by_scale(page: playwright.Page) -> None:
    page.evaluate(
        """() => {
            window.seen = new Set();
            new MutationObserver(() => {
                const picture = document.querySelector("#generate-picture img");
                const status = document.querySelector("#generate-status");
                if (picture) window.seen.add(status.innerText + picture.src);
            }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
        }"""
    )
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("4 images of blue").wait_for()
    pictures = page.evaluate("() => new Set([...window.seen].map(x => x.slice(x.indexOf('http')))).size")
    assert pictures >= 4, "fewer pictures than scales were seen"
    assert page.locator("#generate-gallery img").count() >= 4


def test_the_keyboard_reaches_the_button(page: playwright.Page) -> None:
    start = page.get_by_role("button", name="Generate", exact=True)
    start.focus()
    page.keyboard.press("Enter")
    page.get_by_text("4 images of blue").wait_for()


def paint(page: playwright.Page) -> None:
    """A stroke from the middle of the canvas."""
    place = page.locator("#edit-canvas canvas").first.bounding_box()
    assert place
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(10):
        page.mouse.move(x + 3 * step, y + 2 * step)
    page.mouse.up()
    page.wait_for_timeout(500)


def test_paint_and_inpaint(page: playwright.Page, photo: Path) -> None:
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_timeout(1500)
    page.locator("#edit-canvas input[type=file]").first.set_input_files(str(photo))
    page.locator("#edit-canvas canvas").first.wait_for()
    done = page.get_by_text("2 variations")
    for _ in range(6):  # the editor takes strokes only once it has laid itself out, and does not say when
        page.wait_for_timeout(1500)
        paint(page)
        page.get_by_role("button", name="Edit", exact=True).click()
        try:
            done.wait_for(timeout=5000)
            break
        except playwright.TimeoutError:
            continue
    done.wait_for()
    assert page.locator("#edit-gallery img").count() >= 2


def test_inspect_an_uploaded_photo(page: playwright.Page, photo: Path) -> None:
    page.get_by_role("tab", name="Inspect").click()
    page.locator("#inspect-image input[type=file]").set_input_files(str(photo))
    page.locator("#inspect-image img").wait_for()
    page.get_by_role("button", name="Inspect", exact=True).click()
    page.get_by_text("bits per pixel").wait_for()
    page.locator("#inspect-stage img").click(position={"x": 60, "y": 60})
    page.locator("#inspect-attention img").wait_for()
    assert page.locator("#inspect-attention img").is_visible()


def test_an_invalid_upload_is_told_and_the_studio_lives_on(page: playwright.Page, tmp_path: Path, photo: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    page.get_by_role("tab", name="Inspect").click()
    page.locator("#inspect-image input[type=file]").set_input_files(str(tmp_path / "broken.png"))
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Inspect", exact=True).click()
    page.get_by_text("this file cannot be read as an image").first.wait_for()
    page.reload()
    test_inspect_an_uploaded_photo(page, photo)


def test_wrong_settings_are_told(page: playwright.Page) -> None:
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_text("there is no image yet").first.wait_for()
    assert page.get_by_text("there is no image yet").first.is_visible()


def test_two_models_side_by_side(page: playwright.Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Start both").click()
    page.get_by_text("finished").nth(1).wait_for()
    assert page.get_by_text("finished").count() == 2


def open_tab(page: playwright.Page, name: str) -> None:
    """Through the row of tabs, or through the menu that takes those for which there is no room."""
    place = page.get_by_role("tab", name=name)
    if place.first.is_visible():
        place.first.click()
    else:
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).first.click()


@pytest.mark.parametrize("width", [1280, 390])
def test_every_tab_fills_the_page_and_no_more(browser: playwright.Browser, url: str, width: int, photo: Path) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    for name in TABS:
        open_tab(page, name)
        if name == "Inspect":
            page.locator("#inspect-image input[type=file]").set_input_files(str(photo))
            page.locator("#inspect-image img").wait_for()
            page.get_by_role("button", name="Inspect", exact=True).click()
            page.get_by_text("bits per pixel").wait_for()
        if name == "Scaling":
            page.locator("#scaling-plot img").wait_for()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        tabs = page.locator(".tabs").first.bounding_box()
        assert tabs and tabs["width"] > 0.8 * width, name
    page.close()
