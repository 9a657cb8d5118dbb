"""What the tests of the page share: whether it is built here, and the page in a browser, loaded once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nextscale.explain.server import NEEDED, SITE, page_server

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BUILT = all((SITE / name).is_file() for name in NEEDED)
WAIT = 120_000
"""Milliseconds that something on the page may take: a busy machine is slow, and no test is about that."""


@pytest.fixture(scope="session")
def page() -> Iterator[Any]:
    """The page with its models loaded; `page.said` collects console errors, `page.asked` the addresses of requests."""
    if not BUILT:
        pytest.skip("the page is not built (make explain)")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    server = page_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened: Any = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        opened.set_default_timeout(WAIT)
        opened.said, opened.asked = [], []
        opened.on("console", lambda message: opened.said.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.context.on("request", lambda request: opened.asked.append(request.url))
        opened.url_of_site = f"http://127.0.0.1:{server.server_address[1]}/"
        opened.goto(opened.url_of_site)
        opened.wait_for_selector("html[data-models=ready]")
        yield opened
        browser.close()
    server.shutdown()
    server.server_close()
