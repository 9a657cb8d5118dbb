"""What tests of the studio in a browser share: a studio of toy models, and a page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api as playwright

from browsing import CHROMIUM, free_port, visit
from nextscale.studio.app import open_page
from nextscale.studio.desk import Desk
from nextscale.studio.shelf import Shelf
from toys import make_pipeline, toy_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder, results = tmp_path_factory.mktemp("studio"), (ROOT / "docs" / "results",)
    models: dict[str, Any] = {"rival": make_pipeline(seed=1), "shelf": Shelf.of("toy")}
    found = Desk(make_pipeline(), "toy", results=results, folder=folder, previews=math.inf, **models)
    yield found
    found.close()


@pytest.fixture(scope="module")
def url(desk: Desk) -> Iterator[str]:
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
    opened = visit(browser, url)
    yield opened
    opened.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    toy_image(2, 3, 64).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
