"""Threads that wait, caches and homes that cannot be written, and warnings while several threads run."""

import io
import json
import logging
import os
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

import nextscale
from nextscale.data.decode import UnreadableImage, read_image
from nextscale.environment import POLICIES, WAITING, can_write, quiet_warnings, settle_caches

SCRIPT = """
import json, os, sys
from nextscale.cli import main
main(["--version"])
names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
print(json.dumps([{name: os.environ[name] for name in names if name in os.environ}, "torch" in sys.modules]))
"""


@pytest.mark.parametrize("said", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "0"}])
def test_commands_say_how_threads_wait_before_torch_is_loaded(said: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in POLICIES} | said
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    settled, loaded = json.loads(done.stdout.splitlines()[-1])
    assert settled == (said or WAITING)
    assert not loaded, "it would be too late"


@pytest.fixture
def instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where things go that cannot stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp" / f"nextscale-{os.getuid()}"


def settled(environment: dict[str, str], caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was told; the environment is changed."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        settle_caches(environment)
    return list(caplog.messages)


def test_a_home_that_can_be_written_is_left_alone(tmp_path: Path, instead: Path, caplog) -> None:
    environment = {"HOME": str(tmp_path / "home")}
    assert settled(environment, caplog) == []
    assert environment == {"HOME": str(tmp_path / "home")}
    assert not instead.exists()


@pytest.mark.parametrize("home", ["file", "link to nowhere", "below a file"])
def test_a_home_that_cannot_be_written(home: str, tmp_path: Path, instead: Path, caplog) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link to nowhere").symlink_to(tmp_path / "gone")
    place = tmp_path / "file" / "home" if home == "below a file" else tmp_path / home
    environment = {"HOME": str(place)}
    told = settled(environment, caplog)
    assert told == [
        f"{place}/.cache cannot be written: what is fetched is kept in {instead}; XDG_CACHE_HOME names another place"
    ]
    names = {"XDG_CACHE_HOME": "", "HF_HOME": "huggingface", "TORCH_HOME": "torch", "MPLCONFIGDIR": "matplotlib"}
    assert environment == {"HOME": str(place)} | {name: str(instead / folder) for name, folder in names.items()}
    assert stat.S_IMODE(instead.stat().st_mode) == 0o700
    assert settled(environment, caplog) == [], "what was moved is in order"


@pytest.mark.parametrize("taken", ["huggingface", "huggingface/hub", "torch/hub"])
def test_the_cache_of_another_user(taken: str, tmp_path: Path, instead: Path, caplog, monkeypatch) -> None:
    """Theirs is known by not being writable, which root cannot try."""
    folder = tmp_path / ".cache" / taken
    folder.mkdir(parents=True)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    environment = {"HOME": str(tmp_path)}
    told = settled(environment, caplog)
    library = taken.split("/")[0]
    variable = {"huggingface": "HF_HOME", "torch": "TORCH_HOME"}[library]
    assert len(told) == 1 and f".cache/{library} cannot be written" in told[0] and f"; {variable} names" in told[0]
    assert environment == {"HOME": str(tmp_path), variable: str(instead / library)}


def test_places_that_the_user_named_are_left_alone(tmp_path: Path, instead: Path, caplog) -> None:
    (tmp_path / "file").touch()
    named = {"HF_HOME": "/models", "TORCH_HOME": "/torch", "XDG_CACHE_HOME": str(tmp_path), "MPLCONFIGDIR": "/plots"}
    environment = {"HOME": str(tmp_path / "file")} | named
    assert settled(environment, caplog) == []
    assert environment == {"HOME": str(tmp_path / "file")} | named


def test_a_folder_that_somebody_laid_there_is_not_used(tmp_path: Path, instead: Path, caplog) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "theirs").mkdir()
    instead.symlink_to(tmp_path / "theirs")
    environment = {"HOME": str(tmp_path / "file")}
    settled(environment, caplog)
    assert Path(environment["XDG_CACHE_HOME"]).parent == instead.parent
    assert Path(environment["XDG_CACHE_HOME"]) != instead
    assert can_write(Path(environment["XDG_CACHE_HOME"]))


def test_commands_run_without_a_home(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    (tmp_path / "tmp").mkdir()
    results = Path(__file__).parents[1] / "docs" / "results" / "full-size.json"
    unset = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "TORCH_HOME", "MPLCONFIGDIR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-m", "nextscale", "bench", "--report", str(results), "--plot", str(tmp_path / "x.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "cannot be written: what is fetched is kept in" in done.stderr
    assert (tmp_path / "x.png").is_file()


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
    assert using == ["environment.py"]


def test_images_of_too_many_pixels_are_refused_without_a_warning_as_error(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("L", (30, 50)).save(buffer, format="PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match=r"30 x 50 pixels.*1,000"):
        read_image(buffer.getvalue())
