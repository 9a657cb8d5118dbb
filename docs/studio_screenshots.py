"""Screenshots of the studio's tabs, at the width of a screen and of a phone; of some in the dark too.

    python docs/studio_screenshots.py [--only compare --only scaling] [--results out/scaling]

Needs chromium (Debian: apt-get install chromium).
"""

from __future__ import annotations

import math
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import cyclopts
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from nextscale import VARPipeline
from nextscale.studio.app import open_page
from nextscale.studio.desk import Desk
from nextscale.studio.shelf import Shelf

WIDTHS = {"": (1440, 900), "-phone": (390, 844)}
IN_THE_DARK = (("generate", ""), ("inspect", ""), ("inspect", "-phone"))


def main(
    *,
    model: str = "demo",
    rival: str = "demo-raster",
    results: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    out: Path = Path("docs/images"),
) -> None:
    """Use every tab, or those named, and photograph it."""
    pipeline = VARPipeline.from_pretrained(model)
    other = VARPipeline.from_pretrained(rival) if rival else None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    desk = Desk(pipeline, model, other, tuple(map(Path, results)), previews=math.inf, shelf=Shelf.of(model))
    page = open_page(desk, host="127.0.0.1", port=port)
    photo = Path(tempfile.mkdtemp()) / "photo.png"
    pipeline.generate("coinrun", seeds=[5]).images[0].save(photo)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    tabs: dict[str, Callable[[Page], None]] = {
        "generate": generate, "edit": lambda page: edit(page, photo), "inspect": lambda page: inspect(page, photo),
        "compare": compare, "scaling": scaling,
    }  # fmt: skip
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        wanted = [
            (name, suffix, dark)
            for suffix in WIDTHS
            for name in tabs
            for dark in (False, True)
            if (not only or name in only) and (not dark or (name, suffix) in IN_THE_DARK)
        ]
        for name, suffix, dark in wanted:
            width, height = WIDTHS[suffix]
            scheme = "dark" if dark else "light"
            seen = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            seen.set_default_timeout(60_000)
            seen.goto(f"http://127.0.0.1:{port}")
            seen.get_by_text("Ready.", exact=True).first.wait_for()
            tabs[name](seen)
            seen.wait_for_timeout(800)
            path = out / f"studio-{name}{suffix}{'-dark' if dark else ''}.png"
            seen.screenshot(path=path, full_page=True)
            Image.open(path).convert("RGB").save(path, optimize=True)
            seen.close()
        browser.close()
    page.close()
    desk.close()


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).first.click()


def generate(page: Page) -> None:
    page.get_by_label("Class").first.click()
    page.get_by_role("option", name="fruitbot").click()
    page.get_by_label("Seed", exact=True).first.fill("0")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("4 images of").wait_for()


def edit(page: Page, photo: Path) -> None:
    tab(page, "Edit")
    page.locator("#another").click()
    page.locator("#edit-canvas input[type=file]").set_input_files(str(photo))
    page.get_by_text("Nothing painted").wait_for()
    canvas = page.locator("#painter canvas")
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    assert place
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    for step in range(12):
        page.mouse.move(x - 40 + 7 * step, y + 3 * step)
    page.mouse.up()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.locator("#edit-gallery .thumbnail-item").nth(1).wait_for()
    page.mouse.move(0, 0)


def inspect(page: Page, photo: Path) -> None:
    tab(page, "Inspect")
    page.locator("#inspect-image input[type=file]").set_input_files(str(photo))
    page.locator("#inspect-image img").wait_for()
    page.get_by_role("button", name="Inspect", exact=True).click()
    page.get_by_text("Class: coinrun").wait_for()
    page.locator("#inspect-stage .tokens").click(position={"x": 60, "y": 60})
    page.locator("#inspect-attention img").first.wait_for()


def compare(page: Page) -> None:
    tab(page, "Compare")
    if page.get_by_role("button", name="Start both").count():
        page.get_by_text(" steps against ").wait_for()
        page.locator("#compare-race .replay").get_by_text("Replay").wait_for()
        page.get_by_label("Time of the comparison").fill("500")


def scaling(page: Page) -> None:
    tab(page, "Scaling")
    page.locator("#scaling-chart .mark").nth(3).focus()


if __name__ == "__main__":
    cyclopts.run(main)
