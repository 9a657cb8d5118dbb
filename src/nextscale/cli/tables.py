"""Tables on stdout: whole lines in files and pipes, folded to the width of a terminal, nothing cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 10_000
"""Columns that no table needs."""
FIGURES = {
    "frechet": "Frechet distance",
    "kernel": "kernel distance x 1000",
    "inception_score": "Inception score",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "class_accuracy": "class accuracy",
}
"""What tables call the figures of a comparison of features."""


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below a title."""
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    print_table(table)


def print_table(table: Table) -> None:
    """Print a table as wide as it is off a terminal; on one, cells that do not fit go on in the next line."""
    from rich.console import Console
    from rich.measure import Measurement

    for column in table.columns:
        column.overflow = "fold"
    console = Console()
    if not console.is_terminal:
        wide = Console(width=WIDE)
        console = Console(width=Measurement.get(wide, wide.options, table).maximum)
    console.print(table)


def figure_text(name: str, value: float | None, deviation: float | None = None) -> str:
    """A figure and its deviation as they are printed; empty where it is not known."""
    if value is None:
        return ""
    text = f"{1000 * value:.3f}" if name == "kernel" else f"{value:.4f}" if value < 10 else f"{value:.2f}"
    return text if deviation is None else f"{text} ± {figure_text(name, deviation)}"
