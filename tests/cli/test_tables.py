"""Tables are never cut, whatever the width."""

import io
import re
import sys
from pathlib import Path

import pytest
from rich.table import Table

from nextscale.cli import main
from nextscale.cli.tables import print_table

RESULTS = Path(__file__).parents[2] / "docs" / "results"
WORDS = ("incomprehensibilities", "a figure with many words in its name", "1234567890123456789012345678901234567890")


def table() -> Table:
    made = Table(*WORDS, title="of three columns")
    made.add_row(*reversed(WORDS))
    return made


def test_off_a_terminal_lines_are_whole(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(table())
    lines = capsys.readouterr().out.splitlines()
    assert sum(all(word in line for word in WORDS) for line in lines) == 2, "the head and its row"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [30, 40, 80])
def test_on_a_terminal_cells_are_folded(width: int, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    print_table(table())
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert sorted(filter(str.isdigit, text)) == sorted(WORDS[2] * 2), "nothing is lost"


@pytest.mark.parametrize(
    ("arguments", "head"),
    [
        (["bench", "--report", str(RESULTS / "full-size.json")], "of the bandwidth"),
        (["compare", "--report", str(RESULTS / "families.json")], "class accuracy"),
        (["info", "demo"], "tokenizer fingerprint"),
    ],
)
def test_commands_show_whole_tables(arguments: list[str], head: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert head in shown
