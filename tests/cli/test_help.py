"""The help of every command: quick, complete and in the reader's words."""

import subprocess
import sys
from collections.abc import Iterator

from cyclopts import App

from nextscale.cli import app


def commands(of: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    for name in of:
        if not name.startswith("-"):
            inner = of[name]
            named = [word for word in inner if not word.startswith("-")]
            yield from commands(inner, (*path, name)) if named else [(*path, name)]


COMMANDS = tuple(commands())


def test_all_commands_are_found() -> None:
    assert len(COMMANDS) >= 26
    assert {("generate",), ("edit", "class"), ("train", "dit"), ("scaling", "fit"), ("evaluate", "likelihood")} < set(
        COMMANDS
    )


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
