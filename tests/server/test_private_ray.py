"""Ray for one server: where its sockets live and what it reads from the environment."""

from __future__ import annotations

import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from nextscale.server import private_ray
from nextscale.server.private_ray import INNER, LONGEST, ROOM, SOCKETS, RayOutput, environment, short_folder


@pytest.fixture(autouse=True)
def no_other_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def long_folder(parent: Path) -> Path:
    folder = parent / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    return folder


def test_sockets_have_room_whatever_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(long_folder(tmp_path)))
    folder = short_folder()
    try:
        assert folder.is_dir() and folder.stat().st_mode & 0o077 == 0, "nobody else may look into it"
        assert len(str(folder / INNER) + SOCKETS) <= LONGEST
    finally:
        shutil.rmtree(folder)


def test_a_short_temporary_folder_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    folder = short_folder()
    folder.rmdir()
    assert folder.parent == Path("/var/tmp")


def test_without_a_folder_the_line_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(private_ray.tempfile, "mkdtemp", refuse)
    with pytest.raises(ValueError, match=rf"/tmp \(Permission denied\).*set TMPDIR .* at most {ROOM} characters"):
        short_folder()


def test_every_server_has_a_secret_of_its_own() -> None:
    first, second = environment(), environment()
    assert first["RAY_AUTH_MODE"] == "token"
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"] and len(first["RAY_AUTH_TOKEN"]) == 64


def test_what_ray_prints_becomes_a_line_of_our_log(caplog: pytest.LogCaptureFixture) -> None:
    words = RayOutput()
    with redirect_stdout(words):
        print("\x1b[33m(raylet)\x1b[0m A worker died. To troubleshoot, see /tmp/x.\n  more")
        words.muted = True
        print("\x1b[33m(raylet)\x1b[0m Another.")
    assert [record.getMessage() for record in caplog.records] == ["Ray says: A worker died"]
