"""Tables on stdout: whole lines in files and pipes, folded to the width of a terminal, nothing cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 10_000
"""Columns that no table needs."""


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
