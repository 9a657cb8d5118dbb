"""The help of every command: quick, complete and in the reader's words."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from nextscale.cli import app, main
from nextscale.cli.examples import EXAMPLES

REFERENCE = Path(__file__).parents[2] / "docs" / "command-line.md"


def commands(of: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    for name in of:
        if not name.startswith("-"):
            inner = of[name]
            named = [word for word in inner if not word.startswith("-")]
            yield from commands(inner, (*path, name)) if named else [(*path, name)]


COMMANDS = tuple(commands())


def page(command: tuple[str, ...], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "400")  # nothing is wrapped
    assert main([*command, "--help"]) == 0
    return capsys.readouterr().out


def test_all_commands_are_found() -> None:
    some = {("generate",), ("edit", "class"), ("train", "dit"), ("scaling", "fit"), ("evaluate", "likelihood")}
    assert len(COMMANDS) >= 26
    assert some < set(COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    """torch takes a second or more to import, and help has no use for it."""
    code = f"""
import sys
from nextscale.cli import main
for command in {COMMANDS!r}:
    assert main([*command, "--help"]) == 0
    heavy = {{"torch", "torchvision", "datasets", "numpy", "gradio", "ray"}} & set(sys.modules)
    assert not heavy, (command, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Settled(Exception):
    """The settings of a command were read."""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_examples_are_what_the_command_takes(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = EXAMPLES[" ".join(command)]
    assert lines
    for line in lines:
        words = [*command, *shlex.split(line)]
        function, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        module = sys.modules[function.__module__]
        if "given" not in bound.signature.parameters or "--resume" in words:  # a run has its settings
            continue
        settle = module.settle

        def settled(*arguments, settle=settle, **options) -> None:
            settle(*arguments, **options)
            raise Settled

        with monkeypatch.context() as patch, pytest.raises(Settled):
            patch.setattr(module, "settle", settled)
            function(*bound.args, **bound.kwargs)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_pages_speak_the_language_of_the_command_line(command: tuple[str, ...], capsys, monkeypatch) -> None:
    text = page(command, capsys, monkeypatch)
    example = f"nextscale {' '.join(command)} {EXAMPLES[' '.join(command)][-1]}".strip()
    assert example in " ".join(text.split()), "lines may be broken"
    known = ("mobilenet_v2", "var_d16")  # other people's names
    foreign = [word for word in re.findall(r"\b[a-z0-9]+_[a-z0-9_]+\b", text) if word not in known]
    foreign += re.findall(r"None|False|True|\(\)|\[\]|\"\"|\b(?:STR|INT|FLOAT|BOOL)\b", text)
    assert not foreign
    assert "[default: ]" not in text
    for default in re.findall(r"\[default: (.*?)\]", text):
        assert not re.fullmatch(r"-?\d+\.0", default), default


def test_what_matters_first_comes_first(capsys, monkeypatch) -> None:
    flags = ["model", "classes", "count", "seed", "out", "guidance", "top-k", "precision", "config", "json"]
    text = page(("generate",), capsys, monkeypatch).split("Examples")[0]
    assert re.findall(rf"│ --({'|'.join(flags)}) ", text) == flags
    panels = re.findall(r"╭─ (.*?) ─", page(("train", "tokenizer"), capsys, monkeypatch))
    adversities = ["Adversary", "Disturbance"]
    assert panels == ["Main settings", "More settings", "Model", *adversities, "Optimiser", "Machine", "Files"]


def test_required_settings_are_marked(capsys, monkeypatch) -> None:
    def marked(*command: str) -> set[str]:
        text = page(command, capsys, monkeypatch).split("Examples")[0]
        return set(re.findall(r"--([a-z-]+)(?:(?!--[a-z]).)*?\[required\]", text, flags=re.DOTALL))

    assert marked("train", "var") == {"data", "tokenizer"}, "--out has a default"
    assert marked("evaluate", "generation") == {"data"}
    assert marked("edit", "outpaint") == {"image", "expand"}
    assert marked("convert") == {"model", "out"}
    assert marked("scaling", "predict") == {"depth"}
    assert marked("generate") == set()


def test_the_reference_says_which_commands_take_files(capsys, monkeypatch) -> None:
    pages = {" ".join(command): page(command, capsys, monkeypatch).split("Examples")[0] for command in COMMANDS}
    for flag in ("config", "json"):
        said = re.search(rf"`--{flag} FILE`, in every command but\s([^.(]*)", REFERENCE.read_text(encoding="utf-8"))
        assert said is not None
        lacking = {name for name, text in pages.items() if f"--{flag} FILE" not in text}
        assert set(re.findall(r"`([a-z0-9 -]+)`", said[1].replace("\n", " "))) == lacking
