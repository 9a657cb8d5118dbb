"""A real browser for tests of the studio: Debian's chromium through Playwright."""

from __future__ import annotations

import shutil
import socket
from typing import Any

import pytest
from playwright import sync_api as playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)
WAIT = 120_000
"""Milliseconds that something on the page may take: a busy machine is slow, and no test is about that."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def visit(browser: playwright.Browser, url: str, width: int = 1280, **options: Any) -> playwright.Page:
    """A browser of its own, with the page."""
    opened = browser.new_page(viewport={"width": width, "height": 900}, **options)
    opened.set_default_timeout(WAIT)
    opened.goto(url)
    opened.get_by_text("Ready.", exact=True).first.wait_for()
    return opened


def settle(page: playwright.Page) -> None:
    """Wait until the layout stays as it is for twenty frames."""
    page.evaluate("""() => new Promise(done => {
        let before = "", same = 0
        function look() {
            const now = [...document.querySelectorAll("body *")].map(e => [e.clientWidth, e.clientHeight]).join()
            same = now === before ? same + 1 : 0
            before = now
            same < 20 ? requestAnimationFrame(look) : done()
        }
        look()
    })""")
