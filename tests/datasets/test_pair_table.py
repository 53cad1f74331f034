"""Pairs out of tables: which items there are, which belong together, in which domain, and what is wrong with them."""

import json

import pytest
import torch

from cl_ac.datasets.pair_table import PairTable
from cl_ac.errors import ConfigurationError, DataError

pytest.importorskip("transformers")

TEXTS = {"columns": ("query", "answer"), "kinds": ("text", "text"), "tokens": 5}
ROWS = [
    ("red", "sea", "b"),
    ("cat", "two", "a"),
    ("what", "sea", "b"),
    ("red", "two", "b"),
    ("red", "sea", "b"),
    ("two", "two", "c"),
]


@pytest.fixture
def table(tmp_path):
    """Writes rows of a query, an answer and a domain to a file, and returns its path."""

    def write(rows=ROWS, name="pairs.csv") -> str:
        lines = [",".join(row) for row in [("query", "answer", "domain"), *rows]]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    return write


def test_the_same_item_in_several_rows_has_several_partners(table, language_model):
    path = table()
    benchmark = PairTable(path, path, **TEXTS, tokenizers=(str(language_model),) * 2, unseen=("c",))
    first, second = benchmark.domains.learned
    assert [each.name for each in benchmark.domains.tested] == ["b", "a", "c"]
    assert benchmark.sides == ("query", "answer")
    assert first.train.first[:, 0, 0].tolist() == [[2, 4, 3, -1, -1], [2, 1, 3, -1, -1]]  # red, what
    assert first.train.matches.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert first.train.matching(torch.tensor([0, 1]), torch.tensor([0, 1])).tolist() == [[True, True], [True, False]]
    assert len(second.train) == 1


def test_images_are_read_from_where_the_table_is(tmp_path, language_model):
    from PIL import Image

    for name, grey in (("dark", 10), ("light", 200)):
        Image.new("RGB", (6, 4), (grey,) * 3).save(tmp_path / f"{name}.png")
    rows = [{"image": f"{name}.png", "text": "red sea", "domain": "x"} for name in ("dark", "light")]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = str(tmp_path / "pairs.jsonl")
    benchmark = PairTable(path, path, size=4, tokenizers=(None, str(language_model)))
    (domain,) = benchmark.domains.learned
    assert domain.train.first.shape == (2, 3, 4, 4)
    assert domain.train.first[:, 0, 0, 0].tolist() == [10, 200]
    assert domain.train.matches.tolist() == [[0, 0], [1, 0]]
    assert [benchmark.shape(side) for side in range(2)] == [(3, 4, 4), (1, 1, 64)]


def test_what_is_wrong_is_said(table, tmp_path, language_model):
    both = {"tokenizers": (str(language_model),) * 2}
    path, empty = table(), table([("red", "  ", "b")], "empty.csv")
    for wrong, told in (
        (lambda: PairTable(empty, path, **TEXTS, **both).domains, r"row 1 of '.*empty.csv' has an empty 'answer'"),
        (
            lambda: PairTable(path, table(ROWS[:5], "few.csv"), **TEXTS, **both).domains,
            r"the domain 'c' has test pairs whose number is 0; there must be at least one",
        ),
        (lambda: PairTable(path, path, **TEXTS, **both, unseen=("d",)).domains, r"unknown domain of '.*csv' 'd'"),
        (lambda: PairTable(path, path, **TEXTS, **both, unseen=("a", "b", "c")).domains, r"no domain is left"),
        (lambda: PairTable(path, path, **both).domains, r"row 1 of '.*csv': unknown column 'image'"),
        (
            lambda: PairTable(table([], "none.csv"), path, **TEXTS, **both).domains,
            r"there are no pairs in '.*none.csv'",
        ),
    ):
        with pytest.raises(DataError, match=told):
            wrong()
    with pytest.raises(ConfigurationError, match=r"pairs\.tokenizers names none for 'query'"):
        _ = PairTable(path, path, **TEXTS).domains
    with pytest.raises(ConfigurationError, match="the domain 'a' is named more than once"):
        PairTable(path, path, **TEXTS, base=("a",), unseen=("a",))
    with pytest.raises(ConfigurationError, match="name three different columns"):
        PairTable(path, path, columns=("query", "query"))
