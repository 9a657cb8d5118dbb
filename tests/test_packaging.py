"""What is packed, and what `make` says."""

import re
import shlex
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from nextscale.cli import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKED = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]


def test_only_what_is_listed_is_packed() -> None:
    """A folder of the user's beside ours is not in the list, and everything in the list is ours."""
    assert {"src", "tests", "README.md", "LICENSE"} <= set(PACKED)
    assert not {".", "out", ".venv", "my-images"} & set(PACKED)
    assert all((ROOT / name).exists() for name in PACKED)


def test_a_source_distribution_holds_none_of_the_users_files(tmp_path: Path, monkeypatch) -> None:
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed")
    project = tmp_path / "project"
    ours = ("src/nextscale/__init__.py", "tests/test_it.py")
    theirs = ("my-images/cat.png", "out/run/x.png", "notes.txt", "docs/my [1] photo!.png", "src/nextscale/mine/x.png")
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "hatch_build.py"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    for name in ours:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")
    for command in (["init"], ["add", "."]):
        subprocess.run(["git", *command], cwd=project, check=True, capture_output=True)
    for name in theirs:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")
    monkeypatch.chdir(project)
    made = next(sdist.SdistBuilder(str(project)).build(directory=str(tmp_path / "dist"), versions=["standard"]))
    with tarfile.open(made) as packed:
        names = {name.split("/", 1)[1] for name in packed.getnames()}
    assert {"src/nextscale/__init__.py", "tests/test_it.py", "README.md"} < names
    assert not names & set(theirs)
    wheel = pytest.importorskip("hatchling.builders.wheel")
    made = next(wheel.WheelBuilder(str(project)).build(directory=str(tmp_path / "dist"), versions=["standard"]))
    with zipfile.ZipFile(made) as packed:
        names = set(packed.namelist())
    assert "nextscale/__init__.py" in names
    assert "nextscale/mine/x.png" not in names


def test_metadata_names_the_version_that_is_tested() -> None:
    """The one that the Makefile sets up, in CI as well."""
    named = [line.split(" :: ")[-1] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert named == re.findall(r"command -v python(3\.\d+)", (ROOT / "Makefile").read_text())
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"


def test_make_demo_says_what_comes_next() -> None:
    """In words that can be typed: the environment is entered first, and every command is understood."""
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert recipe is not None
    said = re.findall(r'@echo "  (.*?)(?:\s+#.*)?"', recipe[1])
    assert said[0] == ". $(BIN)/activate"
    assert len(said) >= 2
    for line in said[1:]:
        program, *words = shlex.split(line)
        assert program == "nextscale"
        app.parse_args(words, exit_on_error=False, print_error=False)
