import csv
import io
from html.parser import HTMLParser

import pytest

from cl_ac.report.formats import ResultTable, Spread

TABLE = ResultTable(
    "results",
    "accuracy, %",
    ["run", "seeds", "accuracy", "note"],
    [
        ["LwF, size_1 | a", 2, Spread((0.5, 0.6)), "50 % & more"],
        ["<ER>", 1, Spread((0.25,)), ""],
        ["EWC", 1, Spread((float("nan"),)), ""],
    ],
)


def test_spread_is_mean_and_sample_deviation():
    assert str(Spread((0.5, 0.6))) == "55.0 ± 7.1"
    assert str(Spread((0.125,))) == "12.5"
    assert str(Spread((3.0, 5.0), percent=False)) == "4.0 ± 1.4"
    assert str(Spread((float("nan"), 0.25, float("inf")))) == "25.0"
    assert str(Spread((float("nan"),))) == "–"
    assert Spread((0.2, 0.4, 0.6)).std == pytest.approx(0.2)


def test_csv_holds_numbers():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert list(rows[0]) == ["run", "seeds", "accuracy", "accuracy std", "note"]
    assert (float(rows[0]["accuracy"]), float(rows[0]["accuracy std"])) == pytest.approx((0.55, 0.0707107))
    assert (rows[1]["accuracy"], rows[1]["accuracy std"]) == ("0.25", "")
    assert rows[2]["accuracy"] == ""
    assert rows[0]["run"] == "LwF, size_1 | a"


def test_markdown_aligns_numbers_and_escapes_pipes():
    lines = TABLE.markdown().splitlines()
    assert lines[2:5] == [
        "| run | seeds | accuracy | note |",
        "| --- | ---: | ---: | --- |",
        r"| LwF, size_1 \| a | 2 | 55.0 ± 7.1 | 50 % & more |",
    ]


def test_latex_escapes_what_is_special():
    text = TABLE.latex()
    assert r"\begin{tabular}{lrrl}" in text
    assert r"LwF, size\_1 | a & 2 & 55.0 $\pm$ 7.1 & 50 \% \& more \\" in text
    assert text.count(r"\\") == 4


def test_html_escapes_and_marks_numbers():
    cells = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag in ("td", "th"):
                cells.append(dict(attributes).get("class"))

    text = TABLE.html()
    Reader().feed(text)
    assert cells == [None, "number", "number", None] * 4
    assert "&lt;ER&gt;" in text
    assert "<ER>" not in text
