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


def test_a_long_name_takes_lines_and_not_tables():
    table = Table()
    name = "Digits5_SmallConvNet_LwF_strength2.0_sdn_7e833f_seed3"
    for column in ("run", "accuracy", "incremental", "forgetting", "known task", "cost at equal accuracy"):
        table.add_column(column, justify="left" if column == "run" else "right")
    table.add_row(name, *["65.9"] * 5)
    console = Console(width=80, file=io.StringIO())
    parts = list(fitted(table, console))
    assert [column.header for column in parts[0].columns[1:4]] == ["accuracy", "incremental", "forgetting"]
    assert parts[1].columns[-1].header == "cost at equal accuracy"  # there is room for its words on one line
    assert "".join(parts[0].columns[0].cells).replace("\n", "") == name
    assert max(map(len, next(iter(parts[0].columns[0].cells)).split("\n"))) <= 32
