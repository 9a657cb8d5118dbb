"""One model in place of another: what is offered, what is let go, and what stays."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api as playwright

from browsing import CHROMIUM, NO_CHROMIUM, WAIT, free_port, visit
from nextscale.cli import main
from nextscale.studio.app import build_studio, run_studio
from nextscale.studio.desk import Desk
from nextscale.studio.jobs import Update
from nextscale.studio.shelf import Shelf
from toys import make_baseline, make_pipeline


@pytest.fixture
def models(tmp_path: Path) -> Path:
    make_pipeline().save_pretrained(tmp_path / "models" / "next-scale")
    make_baseline("raster").save_pretrained(tmp_path / "models" / "raster")
    return tmp_path / "models"


@pytest.fixture
def desk(models: Path, tmp_path: Path) -> Iterator[Desk]:
    shelf = Shelf.of(str(models / "next-scale"), str(models))
    pipeline, rival = shelf.open(str(models / "next-scale"))
    desk = Desk(pipeline, str(models / "next-scale"), rival, folder=tmp_path / "desk", shelf=shelf)
    del pipeline, rival
    yield desk
    desk.close()


def test_what_is_offered(models: Path) -> None:
    own = str(models / "next-scale")
    offered = Shelf.of(own, str(models)).models
    assert offered == {own: own, "demo": "demo", "demo-raster": "demo-raster", "models/raster": str(models / "raster")}
    assert list(Shelf.of("demo-raster").models) == ["demo-raster", "demo"]


def test_the_model_is_let_go_before_another_is_opened(desk: Desk, models: Path, monkeypatch: Any) -> None:
    page, other = build_studio(desk), str(models / "raster")
    before, opening, during = weakref.ref(desk.pipeline.transformer), Shelf.open, []

    def opened(shelf: Shelf, *wanted: Any) -> Any:
        during.append(before())
        with pytest.raises(ValueError, match="raster is being opened; try again in a moment"):
            desk.pipeline.generate("blue", seeds=[0])
        return opening(shelf, *wanted)

    monkeypatch.setattr(Shelf, "open", opened)
    assert list(desk.switch(other)) == [f"Opening {other} ...", f"{other} is open."]
    assert during == [None], "two models in memory at once"
    assert desk.switched.is_set() and desk.model == other and desk.pipeline.family.kind == "raster"
    assert page.blocks
    build_studio(desk)


def test_a_model_that_cannot_be_opened_leaves_the_present_one(desk: Desk, models: Path) -> None:
    present = desk.pipeline
    for wrong in (models / "missing", models):
        with pytest.raises(ValueError, match=str(wrong)):
            list(desk.switch(str(wrong)))
    with pytest.raises(ValueError, match="is open already"):
        list(desk.switch(desk.model))
    assert desk.pipeline is present
    (models / "raster" / "transformer" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        list(desk.switch(str(models / "raster")))
    assert desk.pipeline.family.kind == "var" and desk.pipeline.generate("blue", seeds=[0]).images
    assert not desk.switched.is_set()


def test_jobs_of_the_model_before_are_forgotten_and_images_are_not(desk: Desk) -> None:
    def work(job: Any) -> Iterator[Update]:
        job.folder.mkdir()
        yield {}

    visitor = desk.visitors.visitor("someone")
    job = desk.visitors.begin("someone", "Generate", work)
    visitor.made.append(("image.png", "blue"))
    job.join(30)
    desk.switched.set()
    desk.turn_over()
    assert not visitor.jobs and not job.folder.exists() and not desk.switched.is_set()
    assert desk.visitors.visitor("someone").made == [("image.png", "blue")]


@pytest.mark.parametrize(
    ("folder", "message"), [("missing", "there is no such folder"), (".", "holds no model that generates")]
)
def test_a_folder_without_models_is_told_in_a_line(
    folder: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["studio", "--models", str(tmp_path / folder)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@NO_CHROMIUM
def test_another_model_is_opened_in_the_browser(desk: Desk, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    where: dict[str, Any] = {"host": "127.0.0.1", "port": port, "open_browser": False}
    studio = threading.Thread(target=run_studio, args=(desk,), kwargs=where, daemon=True)
    studio.start()
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = visit(browser, f"http://127.0.0.1:{port}")
        page.locator("#generate-start").click()
        page.get_by_text("4 images of blue").wait_for()
        page.get_by_label("Model", exact=True).click()
        page.get_by_role("option", name="models/raster").click()
        page.locator("#model-open").click()
        page.get_by_text("raster: 16 x 16 pixels in 1 scale,").wait_for()
        pictures = page.locator("#generate-gallery .thumbnail-item img")
        playwright.expect(pictures).to_have_count(4, timeout=WAIT)
        page.wait_for_function("[...document.querySelectorAll('#generate-gallery img')].every(one => one.naturalWidth)")
        assert page.get_by_role("tab", name="Edit").count() == 0
        browser.close()
    monkeypatch.setattr("nextscale.studio.app.open_page", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    desk.switched.set()
    studio.join(60)
    assert not studio.is_alive()
