"""Texts in tables: files of comma-separated values, or of one JSON object a line."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cl_ac.datasets.text_set import Texts, TextSet
from cl_ac.errors import ConfigurationError, DataError, told, unknown

LINES = (".jsonl", ".ndjson", ".json")


class TextTable(TextSet):
    """Texts and labels in files: `.csv` with a header, or `.jsonl` with an object in each line.

    Args:
        train: the file with texts to train on.
        test: that with texts to test on; None takes a fifth of each class of the former, the same for every seed.
        text: the column of texts.
        label: the column of labels: text, or whole numbers.
    """

    def __init__(
        self,
        train: str,
        test: str | None = None,
        text: str = "text",
        label: str = "label",
        tokenizer: str | None = None,
        tokens: int = 128,
        download: bool = False,
        **splitting,
    ):
        super().__init__(tokenizer, tokens, download, **splitting)
        if text == label:
            raise ConfigurationError(f"benchmark.text and benchmark.label are both '{text}'; name two columns")
        self.train, self.test, self.text, self.label = train, test, text, label

    def read(self) -> tuple[Texts, Texts | None]:
        train = labelled(self.train, self.text, self.label)
        return train, None if self.test is None else labelled(self.test, self.text, self.label)


def labelled(path: str | Path, text: str, label: str) -> Texts:
    """The texts of a file with their labels, from the columns of these names.

    Raises:
        DataError: if there is no such file, it cannot be read, or has no such columns.
    """
    rows = list(read_table(path, (text, label)))
    labels: list[Any] = [row[label] for row in rows]
    missing = [number for number, each in enumerate(labels, 1) if each is None or str(each).strip() == ""]
    if missing:
        raise DataError(f"text {missing[0]} of '{path}' has no label; remove it")
    if not all(isinstance(each, int) for each in labels):
        labels = [str(each) for each in labels]
        if all(each.isdecimal() for each in labels):
            labels = [int(each) for each in labels]
    return Texts(f"'{path}'", [row[text] for row in rows], labels)


def read_table(path: str | Path, columns: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """The rows of a file of comma-separated values, or of JSON objects.

    Raises:
        DataError: if there is no such file, it cannot be read, or lacks one of `columns`.
    """
    place = Path(path).expanduser()
    try:
        with place.open(encoding="utf-8-sig", newline="") as file:
            lines = place.suffix.lower() in LINES
            rows: Iterable[Any] = map(json.loads, filter(str.strip, file)) if lines else csv.DictReader(file)
            for number, row in enumerate(rows, 1):
                if not isinstance(row, dict):
                    raise DataError(f"row {number} of '{place}' is no object with columns")
                for column in columns:
                    if column not in row:
                        known = [str(name) for name in row if name is not None]
                        raise DataError(f"row {number} of '{place}': {unknown('column', column, known)}")
                yield row
    except FileNotFoundError as error:
        raise DataError(f"there is no file '{place}'") from error
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DataError(f"'{place}' cannot be read as a table ({told(error, 100)})") from error
