import io

import pytest
from rich.console import Console
from rich.table import Table

from cl_ac.cli.show import fitted, show


def wide(columns: int) -> Table:
    table = Table(title="many numbers", caption="what they are")
    table.add_column("name of the row")
    for place in range(columns):
        table.add_column(f"accuracy number{place}", justify="right")
    for row in ("first thing", "second thing"):
        table.add_row(row, *(f"{place}.25" for place in range(columns)))
    return table


@pytest.mark.parametrize("columns", [1, 4, 12])
def test_tables_fit_without_breaking_words(columns):
    console = Console(width=80, file=io.StringIO())
    for part in fitted(wide(columns), console):
        console.print(part)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    words = text.replace("│", " ").replace("┃", " ").split()
    assert {f"number{place}" for place in range(columns)} <= set(words)
    assert {f"{place}.25" for place in range(columns)} <= set(words)
    parts = 1 if columns < 12 else 3
    assert words.count("second") == parts


def test_title_and_caption_are_told_once(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    show(wide(12))
    printed = capsys.readouterr().out
    assert printed.count("many numbers") == 1
    assert printed.splitlines()[-1] == "what they are"
    assert max(map(len, printed.splitlines())) <= 60
