"""Printing tables."""

from rich.console import Console
from rich.table import Table


def show(table: Table) -> None:
    """Prints a table, as wide as it needs where the output is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
