"""Quiet blocks that overlap in several threads leave the filters of warnings as they were."""

from __future__ import annotations

import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

import nextscale
from nextscale.data.decode import UnreadableImage, read_image
from nextscale.quiet import quiet_warnings


def test_blocks_that_overlap_restore_the_filters() -> None:
    before = list(warnings.filters)
    both_inside, first_is_out = threading.Barrier(2), threading.Event()

    def first() -> None:
        with quiet_warnings():
            both_inside.wait()
        first_is_out.set()

    def second() -> None:
        with quiet_warnings():
            both_inside.wait()
            first_is_out.wait()
            warnings.warn("not seen", stacklevel=1)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(second), pool.submit(first)]:
            done.result()
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="seen again"):
        warnings.warn("seen again", stacklevel=1)


def test_an_error_inside_restores_the_filters() -> None:
    before = list(warnings.filters)
    with pytest.raises(KeyError), quiet_warnings():
        raise KeyError
    assert list(warnings.filters) == before


def test_nothing_else_catches_warnings() -> None:
    package = Path(nextscale.__file__).parent
    using = [path.name for path in package.rglob("*.py") if "catch_warnings" in path.read_text(encoding="utf-8")]
    assert using == ["quiet.py"]


def test_images_of_too_many_pixels_are_refused_without_a_warning_as_error(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("L", (30, 50)).save(buffer, format="PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match=r"30 x 50 pixels.*1,000"):
        read_image(buffer.getvalue())
