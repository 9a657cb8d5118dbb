"""The studio in a real browser: Debian's chromium through Playwright."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from playwright import sync_api as playwright

from browsing import NO_CHROMIUM, WAIT, settle, visit
from nextscale.results import GenerationStep
from nextscale.studio.desk import Desk

pytestmark = [pytest.mark.slow, NO_CHROMIUM]


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


def upload(page: playwright.Page, photo: Path) -> None:
    page.get_by_role("tab", name="Edit").click()
    page.locator("#another").click()  # an example is there at first
    page.locator("#edit-canvas input[type=file]").first.set_input_files(str(photo))
    page.get_by_text("Another image (this one: 64 x 64 pixels)").wait_for()
    painted(page, "Nothing painted")


def painted(page: playwright.Page, share: str) -> None:
    """What the canvas says of its mask."""
    playwright.expect(page.locator("#painter output")).to_have_text(share, timeout=WAIT)


def drag(page: playwright.Page, *places: tuple[float, float]) -> None:
    """From place to place on the canvas, as shares of its sides."""
    canvas = page.locator("#painter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    for number, (x, y) in enumerate(places):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def edited(page: playwright.Page, count: int) -> playwright.Locator:
    """Press the button, and wait until there are so many results."""
    page.locator("#edit-start").click()
    results = page.locator("#edit-gallery .thumbnail-item")
    playwright.expect(results).to_have_count(count, timeout=WAIT)
    playwright.expect(page.locator("#edit-start")).to_have_text("Edit", timeout=WAIT)
    return results


def saved(page: playwright.Page) -> Image.Image:
    with page.expect_download() as download:
        page.locator("#edit-save").click()
    return Image.open(download.value.path())


def test_paint_and_inpaint(page: playwright.Page, photo: Path) -> None:
    upload(page, photo)
    page.locator("#edit-start").click()
    page.get_by_text("Not done: nothing is painted").wait_for()
    drag(page, (0.5, 0.5), (0.55, 0.55), (0.6, 0.5))
    results = edited(page, 2)
    sizes = page.evaluate("[...document.querySelectorAll('#edit-pair img')].map(image => image.naturalWidth)")
    assert sizes and max(sizes) <= 64
    results.nth(1).click()
    playwright.expect(page.locator("#edit-save")).to_be_enabled(timeout=WAIT)
    before, after = (np.asarray(one.convert("RGB")).astype(int) for one in (Image.open(photo), saved(page)))
    changed = np.abs(after - before).max(axis=2) > 0
    assert changed[30:34, 32:36].any() and not changed[:16].any() and not changed[48:].any()


def test_the_mask_has_a_rectangle_an_eraser_inversion_and_undo(page: playwright.Page, photo: Path) -> None:
    upload(page, photo)
    for tool, corners, share in (
        ("Rectangle", ((0.5, 0.5), (0, 0)), "25 % painted"),
        ("Rectangle", ((0.75, 0.9), (0.5, 0.1)), "45 % painted"),
    ):
        page.get_by_role("button", name=tool).click()
        drag(page, *corners)
        painted(page, share)
    page.get_by_role("button", name="Invert").click()
    painted(page, "55 % painted")
    for _ in range(2):
        page.get_by_role("button", name="Undo", exact=True).click()
    painted(page, "25 % painted")
    page.get_by_role("button", name="Clear", exact=True).click()
    painted(page, "Nothing painted")
    canvas = page.locator("#painter canvas")
    canvas.focus()
    for key in ("Space", *["ArrowRight"] * 5, *["ArrowDown"] * 5, "Space"):  # from the middle, a twenty-fifth each
        page.keyboard.press(key)
    painted(page, "4 % painted")
    page.keyboard.press("Control+z")
    painted(page, "Nothing painted")
    page.locator("#painter input").fill("40")
    page.get_by_role("button", name="Brush").click()
    drag(page, (0.5, 0.5), (0.5, 0.5))
    painted(page, "13 % painted")  # a circle: pi x 0.2^2


def test_variations_stay_and_are_edited_further(page: playwright.Page) -> None:
    page.get_by_role("tab", name="Edit").click()
    painted(page, "16 % painted")  # the example: one click shows something
    edited(page, 2)
    assert not page.locator("#edit-lock input").is_checked()
    captions = edited(page, 4).locator(".caption-label").all_inner_texts()
    assert len(set(captions)) == 4, "another seed was drawn"
    page.locator("#edit-gallery .thumbnail-item").nth(3).click()
    page.locator("#edit-use").click()
    painted(page, "Nothing painted")
    back = page.locator("#back")
    back.click()
    painted(page, "16 % painted")
    playwright.expect(back).to_be_hidden(timeout=WAIT)
    page.locator("#edit-delete").click()
    playwright.expect(page.locator("#edit-gallery .thumbnail-item")).to_have_count(3, timeout=WAIT)
    page.get_by_label("Around the image").click()
    edited(page, 5)
    with page.expect_download() as download:
        page.locator("#edit-zip").click()
    with ZipFile(download.value.path()) as together:
        assert len(together.namelist()) == 5
    page.reload()
    page.get_by_text("Ready.", exact=True).first.wait_for()
    page.get_by_role("tab", name="Edit").click()
    playwright.expect(page.locator("#edit-gallery .thumbnail-item")).to_have_count(5, timeout=WAIT)
    painted(page, "16 % painted")


@pytest.fixture
def held(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Generation stops after its first scale until this is set."""
    go, steps = threading.Event(), desk.pipeline.generate_steps

    def slowly(*values: Any, **settings: Any) -> Iterator[GenerationStep]:
        for step in steps(*values, **settings):
            yield step
            assert go.wait(300)

    monkeypatch.setattr(desk.pipeline, "generate_steps", slowly)
    yield go
    go.set()


def test_a_running_job_is_seen_and_outlives_the_page(
    browser: playwright.Browser, page: playwright.Page, url: str, held: threading.Event
) -> None:
    start, status = page.locator("#generate-start"), page.locator("#generate-status")
    start.click()
    page.get_by_text("Scale 1 of 4").wait_for()
    playwright.expect(start).to_have_text("Working ...", timeout=WAIT)
    assert start.is_disabled(), "a second press would be ignored"
    assert page.locator("#generate-stop").is_enabled()
    page.reload()
    page.get_by_text("Scale 1 of 4").wait_for()
    playwright.expect(start).to_have_text("Working ...", timeout=WAIT)
    page.locator("#generate-picture img").wait_for()
    other = visit(browser, url)
    other.locator("#generate-start").click()
    other.get_by_text("Waiting: 1 job to go before this one").wait_for()
    held.set()
    page.get_by_text("4 images of blue").wait_for()
    playwright.expect(start).to_have_text("Generate", timeout=WAIT)
    other.get_by_text("4 images of blue").wait_for()
    other.close()
    page.reload()
    page.get_by_text("4 images of blue").wait_for()
    playwright.expect(page.locator("#generate-gallery .thumbnail-item img")).to_have_count(4, timeout=WAIT)
    playwright.expect(status).to_be_visible(timeout=WAIT)
    playwright.expect(start).to_be_enabled(timeout=WAIT)


def test_a_job_is_stopped(page: playwright.Page, held: threading.Event) -> None:
    page.locator("#generate-start").click()
    page.get_by_text("Scale 1 of 4").wait_for()
    page.locator("#generate-stop").click()
    held.set()
    page.get_by_text("Stopped.").wait_for()
    playwright.expect(page.locator("#generate-start")).to_be_enabled(timeout=WAIT)
    assert page.locator("#generate-gallery .thumbnail-item").count() == 0


def test_the_chosen_image_stays_chosen(page: playwright.Page, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Image.Image] = []

    def reading(path: str) -> Image.Image:
        taken.append(Image.open(path))
        return taken[-1].convert("RGB")

    monkeypatch.setattr("nextscale.studio.painter.uploaded", reading)
    seed, take = page.get_by_label("Seed", exact=True).first, page.locator("#take")
    assert take.is_disabled()
    seed.fill("0")
    page.locator("#generate-start").click()
    page.get_by_text("4 images of blue, seed 0").wait_for()
    thumbnails = page.locator("#generate-gallery .thumbnail-item")
    playwright.expect(thumbnails).to_have_count(4, timeout=WAIT)
    small = thumbnails.nth(2).locator("img").bounding_box()
    thumbnails.nth(2).click()
    playwright.expect(take).to_have_text("Edit blue, seed 2", timeout=WAIT)
    large = page.locator("#generate-gallery .preview .media-button img").bounding_box()
    assert small and large and large["height"] > small["height"], "what was clicked is shown smaller than before"
    seed.fill("70")
    page.locator("#generate-start").click()
    page.get_by_text("4 images of blue, seed 70").wait_for()
    playwright.expect(take).to_have_text("Edit blue, seed 2", timeout=WAIT)
    take.click()
    page.get_by_text("Another image (this one: 16 x 16 pixels)").wait_for()
    painted(page, "Nothing painted")
    assert [json.loads(one.text["nextscale"])["seed"] for one in taken] == [2]  # type: ignore[attr-defined]


def test_nothing_can_be_shared(page: playwright.Page) -> None:
    page.locator("#generate-start").click()
    page.get_by_text("4 images of blue").wait_for()
    page.locator("#generate-gallery .thumbnail-item").first.click()
    page.locator("#generate-gallery .preview").wait_for()
    assert page.get_by_label("fullscreen").count() >= 1
    assert page.get_by_label("share").count() == 0


def inspect(page: playwright.Page, photo: Path) -> None:
    page.get_by_role("tab", name="Inspect").click()
    page.locator("#inspect-image input[type=file]").set_input_files(str(photo))
    page.locator("#inspect-image img").wait_for()
    page.get_by_role("button", name="Inspect", exact=True).click()
    page.get_by_text("The image was resized from 64 x 64 to 16 x 16 pixels").wait_for()


def test_inspect_an_uploaded_photo(page: playwright.Page, photo: Path) -> None:
    page.get_by_role("tab", name="Inspect").click()
    page.get_by_text("After scale 4 of 4: 4 x 4 tokens").wait_for()  # ready-made
    inspect(page, photo)
    page.locator("#inspect-stage .play").click()
    now = page.locator("#inspect-stage .now")
    for scale in ("1 of 4: 1 x 1", "4 of 4: 4 x 4"):  # it plays, and ends
        playwright.expect(now).to_contain_text(f"After scale {scale} tokens, PSNR", timeout=WAIT)
    playwright.expect(page.locator("#inspect-stage .play")).to_have_text("Play", timeout=WAIT)
    tokens, marker = page.locator("#inspect-stage .tokens"), page.locator("#inspect-stage .marker")
    tokens.scroll_into_view_if_needed()
    box = tokens.bounding_box()
    assert box
    tokens.click(position={"x": box["width"] * 0.6, "y": box["height"] * 0.1})
    page.get_by_text("the token in row 1, column 3 of 4 x 4").wait_for()
    place, box = marker.bounding_box(), tokens.bounding_box()
    assert box and place and place["x"] == pytest.approx(box["x"] + box["width"] / 2, abs=2)
    assert place["width"] == pytest.approx(box["width"] / 4, abs=2)
    tokens.focus()
    for key in ("ArrowDown", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    page.get_by_text("the token in row 2, column 2 of 4 x 4").wait_for()
    page.get_by_label("Scales added up").fill("2")
    playwright.expect(now).to_contain_text("2 x 2 tokens", timeout=WAIT)
    playwright.expect(marker).to_be_hidden(timeout=WAIT)
    page.locator("#inspect-samples .thumbnail-item").nth(2).click()
    playwright.expect(page.locator("#inspect-status")).not_to_contain_text("resized", timeout=WAIT)
    playwright.expect(now).to_contain_text("4 x 4 tokens", timeout=WAIT)


@pytest.mark.parametrize("tab", ["Edit", "Inspect"])
def test_an_invalid_upload_is_told_and_the_studio_lives_on(
    page: playwright.Page, tmp_path: Path, photo: Path, tab: str
) -> None:
    (tmp_path / "broken.png").write_text("no image")
    page.get_by_role("tab", name=tab).click()
    place = {"Edit": "#edit-canvas", "Inspect": "#inspect-image"}[tab]
    if tab == "Edit":
        page.locator("#another").click()
    page.locator(f"{place} input[type=file]").first.set_input_files(str(tmp_path / "broken.png"))
    page.get_by_text("broken.png: not an image").first.wait_for()
    assert page.get_by_text("Error", exact=True).count() == 0
    if tab == "Inspect":
        inspect(page, photo)
    else:
        page.locator("#edit-photo input[type=file]").set_input_files(str(photo))
        painted(page, "Nothing painted")


def test_wrong_settings_are_told_and_what_was_made_stays(page: playwright.Page) -> None:
    page.get_by_role("tab", name="Edit").click()
    page.locator("#another").click()
    page.locator("#edit-photo input[type=file]").wait_for(state="attached")
    page.locator("#edit-start").click()
    page.get_by_text("Not done: there is no image yet").wait_for()
    assert page.get_by_test_id("toast-body").is_visible()
    assert page.get_by_text("Error", exact=True).count() == 0
    playwright.expect(page.locator("#edit-start")).to_be_enabled(timeout=WAIT)
    page.get_by_role("tab", name="Generate").click()
    for seed in ("-1", "1.5"):
        page.get_by_label("Seed", exact=True).first.fill(seed)
        page.locator("#generate-start").click()
        page.get_by_text(f"Not done: a seed is a whole number from 0 on, got {seed}").wait_for()
    assert page.get_by_text("Error", exact=True).count() == 0


def test_two_models_side_by_side(page: playwright.Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.get_by_text("4 steps against 4 steps").wait_for()  # the one on load
    page.locator("#compare-seed input").fill("3")
    page.get_by_role("button", name="Start both").click()
    playwright.expect(page.locator("#compare-status")).to_contain_text("seed 3", timeout=WAIT)
    page.get_by_text("4 steps against 4 steps").wait_for()


@pytest.mark.parametrize("width", [1280, 390])
def test_every_tab_fills_the_page_and_no_more(browser: playwright.Browser, url: str, width: int, photo: Path) -> None:
    page = visit(browser, url, width)
    for name in ("Generate", "Edit", "Inspect", "Compare", "Scaling"):
        page.get_by_role("tab", name=name).first.click()  # all stand in the row, on a phone too
        if name == "Inspect":
            page.locator("#inspect-image input[type=file]").set_input_files(str(photo))
            page.locator("#inspect-image img").wait_for()
            page.get_by_role("button", name="Inspect", exact=True).click()
            page.get_by_text("The image was resized").wait_for()
        if name == "Scaling":
            page.locator("#scaling-chart .mark").first.wait_for()
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        tabs = page.locator(".tabs").first.bounding_box()
        assert tabs and tabs["width"] > 0.8 * width, name
    page.close()


def test_tabs_answer_arrow_keys_and_pictures_say_what_they_show(page: playwright.Page) -> None:
    page.get_by_role("tab", name="Generate").focus()
    for key, name in (("ArrowRight", "Edit"), ("ArrowRight", "Inspect"), ("End", "Scaling"), ("Home", "Generate")):
        page.keyboard.press(key)
        tab = page.get_by_role("tab", name=name)
        playwright.expect(tab).to_be_focused(timeout=WAIT)
        playwright.expect(tab).to_have_attribute("aria-selected", "true", timeout=WAIT)
    page.locator("#generate-start").click()
    page.get_by_text("4 images of blue").wait_for()
    page.locator("#generate-gallery img").nth(3).wait_for()
    settle(page)
    said = page.evaluate("[...document.images].filter(one => one.checkVisibility()).map(one => one.alt)")
    assert len(said) >= 5 and all(said), said


def test_what_was_made_is_used_again(page: playwright.Page, tmp_path: Path) -> None:
    page.locator("#generate-strip figure").nth(3).wait_for()  # ready-made
    page.locator("#generate-start").click()
    page.get_by_text("4 images of blue").wait_for()
    thumbnails = page.locator("#generate-gallery .thumbnail-item")
    thumbnails.nth(3).click()
    playwright.expect(page.locator("#take")).to_contain_text("Edit blue, seed", timeout=WAIT)
    chosen = page.locator("#take").inner_text().split()[-1]
    playwright.expect(page.locator("#generate-strip .whose")).to_have_text(f"blue, seed {chosen}", timeout=WAIT)
    assert page.locator("#generate-strip figcaption").all_inner_texts() == ["1 x 1", "2 x 2", "3 x 3", "4 x 4"]
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "ours.png")
    seed, lock = page.get_by_label("Seed", exact=True).first, page.locator("#generate-lock input")
    assert not lock.is_checked() and seed.input_value() != chosen
    page.get_by_role("button", name="Settings from a picture").click()
    page.locator("#settings-file input[type=file]").set_input_files(str(tmp_path / "ours.png"))
    playwright.expect(seed).to_have_value(chosen, timeout=WAIT)
    assert lock.is_checked()
    with page.expect_download() as download:
        page.locator("#zip").click()
    with ZipFile(download.value.path()) as together:
        assert len(together.namelist()) == 4 and any(f"seed-{chosen}.png" in one for one in together.namelist())
    page.locator("#more").click()
    page.get_by_text(f"More like blue, seed {chosen}: 4 variations").wait_for()
    playwright.expect(thumbnails).to_have_count(8, timeout=WAIT)
    page.locator("#delete").click()
    playwright.expect(thumbnails).to_have_count(7, timeout=WAIT)
    assert page.locator("#take").is_disabled()
