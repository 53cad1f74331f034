"""Printing tables so that no word is broken: what is too wide is stacked."""

import os
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

WIDE = 200


def show(table: Table) -> None:
    """Prints a table between its title and its caption; as wide as it needs where the output is no terminal."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=WIDE)
    if table.title:
        console.print(table.title, style="bold", highlight=False)
    for part in fitted(table, console):
        console.print(part)
    if table.caption:
        console.print(table.caption, highlight=False)


def fitted(table: Table, console: Console) -> Iterator[Table]:
    """The table in parts that fit the console: whole, or with a word of its head a line, or columns below each other.

    Each part begins with the columns that say what a row is: the first, and those after it that are left-justified
    like it. A single column that is too wide is left to fold.
    """
    columns = table.columns
    for narrow in (False, True):
        whole = _part(columns, narrow)
        if _width(whole, console) <= console.width:
            yield whole
            return
    named = next((place for place, column in enumerate(columns) if column.justify != "left"), 1) or 1
    names = columns[:named]
    chosen: list[Column] = []
    for column in columns[named:]:
        if chosen and _width(_part([*names, *chosen, column], True), console) > console.width:
            yield _part([*names, *chosen], True)
            chosen = []
        chosen.append(column)
    yield _part([*names, *chosen], True)


def _part(columns: Sequence[Column], narrow: bool) -> Table:
    """A table of some columns of another, perhaps with each word of its head on a line of its own."""
    part = Table()
    for column in columns:
        head = str(column.header)
        part.add_column(head.replace(" ", "\n") if narrow else head, justify=column.justify, overflow="fold")
    for row in zip(*(column.cells for column in columns), strict=True):
        part.add_row(*row)
    return part


def _width(table: Table, console: Console) -> int:
    """How wide a table would like to be."""
    return Measurement.get(console, console.options.update(width=100_000), table).maximum
