"""The pictures of docs/explain.md: the page at two widths, light and dark.

make explain
python docs/explain_screenshots.py
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from PIL import Image
from playwright import sync_api as playwright

from nextscale.explain.server import page_server

FOLDER = Path(__file__).parent / "images"
SHOTS = (("explain", 1440, "light", "order", 980), ("explain-dark", 1440, "dark", "generate", 980),
         ("explain-phone", 390, "light", "edit", 844), ("explain-phone-dark", 390, "dark", "pyramid", 844))  # fmt: skip
"""Name, width, theme, chapter whose figure is shown, height."""
COLOURS = 200
"""A picture's, which halves its file."""


def main() -> None:
    server = page_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, width, theme, chapter, height in SHOTS:
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
            page.wait_for_selector("html[data-models=ready]", timeout=120_000)
            page.locator(f"#{chapter} .play").first.evaluate("figure => figure.scrollIntoView()")
            page.wait_for_timeout(12_000)
            page.locator(f"#{chapter} .play").first.evaluate("figure => figure.scrollIntoView()")
            page.wait_for_timeout(500)
            path = FOLDER / f"{name}.png"
            page.screenshot(path=path)
            Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
