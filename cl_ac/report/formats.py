"""A table of results, and its forms: HTML and Markdown to read, LaTeX to print, CSV to compute with."""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from statistics import mean, stdev


@dataclass(frozen=True)
class Spread:
    """A number over the seeds of a run; shown as mean ± sample deviation.

    Args:
        values: one for each seed; those that are not finite are left out.
        percent: whether they are shares in [0, 1], shown in per cent.
    """

    values: tuple[float, ...]
    percent: bool = True

    @property
    def mean(self) -> float | None:
        """None if there is no finite value."""
        return mean(self._finite) if self._finite else None

    @property
    def std(self) -> float | None:
        """None for a single seed."""
        return stdev(self._finite) if len(self._finite) > 1 else None

    @property
    def _finite(self) -> list[float]:
        return [value for value in self.values if isfinite(value)]

    def __str__(self) -> str:
        scale = 100 if self.percent else 1
        if self.mean is None:
            return "–"
        return f"{scale * self.mean:.1f}" + ("" if self.std is None else f" ± {scale * self.std:.1f}")


Cell = str | int | float | Spread


@dataclass(frozen=True)
class ResultTable:
    """A table that knows its numbers.

    Args:
        name: of its files.
        title: a line above it.
        columns: their headings; the first heads the names of the rows.
        rows: as many cells each; an empty text where there is nothing.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def csv(self) -> str:
        """Means as they are, shares in [0, 1], with a column `… std` beside each column that has a deviation."""
        spread = [any(isinstance(row[i], Spread) and row[i].std is not None for row in self.rows) for i in self._places]
        names = [[name, f"{name} std"] if wide else [name] for name, wide in zip(self.columns, spread, strict=True)]
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(chain(*names))
        for row in self.rows:
            cells = [_numbers(cell)[: 1 + wide] for cell, wide in zip(row, spread, strict=True)]
            writer.writerow(chain(*cells))
        return written.getvalue()

    def markdown(self) -> str:
        """A pipe table."""

        def line(cells: Sequence[str]) -> str:
            escaped = [cell.replace("|", r"\|") for cell in cells]
            return f"| {' | '.join(escaped)} |"

        rule = ["---:" if self._is_number(place) else "---" for place in self._places]
        body = [line([_text(cell) for cell in row]) for row in self.rows]
        return "\n".join([f"{self.title}\n", line(self.columns), line(rule), *body]) + "\n"

    def latex(self) -> str:
        """A `tabular` in the style of the package booktabs."""
        align = "".join("r" if self._is_number(place) else "l" for place in self._places)
        head = " & ".join(_latex(column) for column in self.columns)
        body = [" & ".join(_latex(_text(cell)) for cell in row) + r" \\" for row in self.rows]
        lines = [f"% {self.title}", rf"\begin{{tabular}}{{{align}}}", r"\toprule", rf"{head} \\", r"\midrule"]
        return "\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def html(self) -> str:
        """A `table` element."""

        def row(cells: Sequence[Cell], tag: str) -> str:
            kinds = [' class="number"' if self._is_number(place) else "" for place in self._places]
            parts = [
                f"<{tag}{kind}>{html.escape(_text(cell))}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
            ]
            return f"<tr>{''.join(parts)}</tr>"

        body = "\n".join(row(cells, "td") for cells in self.rows)
        caption = f"<caption>{html.escape(self.title)}</caption>"
        return f"<table>{caption}\n<thead>{row(self.columns, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table>"

    @property
    def _places(self) -> range:
        return range(len(self.columns))

    def _is_number(self, place: int) -> bool:
        return any(isinstance(row[place], Spread | int | float) for row in self.rows)


def _text(cell: Cell) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _numbers(cell: Cell) -> list[str]:
    """The fields of a cell in a CSV file: its value, and its deviation or nothing."""
    if not isinstance(cell, Spread):
        return [repr(cell) if isinstance(cell, float) else str(cell), ""]
    return ["" if number is None else f"{number:.6g}" for number in (cell.mean, cell.std)]


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$",
    }
)  # fmt: skip


def _latex(text: str) -> str:
    return text.translate(_LATEX)
