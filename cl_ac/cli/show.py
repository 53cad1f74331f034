"""Printing tables so that no word is broken: what is too wide is stacked."""

import os
import re
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

    Each part begins with the columns that say what a row is: the first, its long names on several lines, and those
    after it that are left-justified like it. A single column that is too wide is left to fold.
    """
    columns = table.columns
    if _width(_part(columns, True), console) <= console.width:
        yield _widest(columns, console)
        return
    columns = [_with_lines(columns[0], 2 * console.width // 5), *columns[1:]]
    named = next((place for place, column in enumerate(columns) if column.justify != "left"), 1) or 1
    names = columns[:named]
    chosen: list[Column] = []
    for column in columns[named:]:
        if chosen and _width(_part([*names, *chosen, column], True), console) > console.width:
            yield _widest([*names, *chosen], console)
            chosen = []
        chosen.append(column)
    yield _widest([*names, *chosen], console)


def _widest(columns: Sequence[Column], console: Console) -> Table:
    """A table whose head has each word on a line of its own only if it does not fit otherwise."""
    wide = _part(columns, False)
    return wide if _width(wide, console) <= console.width else _part(columns, True)


def _with_lines(column: Column, width: int) -> Column:
    """A column whose cells are on lines of at most `width`, broken where words and the parts of names end."""
    table = Table()
    table.add_column(column.header, justify=column.justify)
    for cell in map(str, column.cells):
        lines = [""]
        for part in re.findall(r"[^\s_]*[\s_]*", cell):
            if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
        table.add_row("\n".join(lines))
    return table.columns[0]


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
