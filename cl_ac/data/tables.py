"""Tables of texts: files of comma-separated values, or of one JSON object a line."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_ac.errors import DataError, told, unknown

LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Texts:
    """Texts with what stands beside them as their label.

    Args:
        source: where they come from, for who has to look there.
        texts: none of them empty.
        labels: text or whole numbers.
    """

    source: str
    texts: Sequence[str]
    labels: Sequence[str] | Sequence[int]

    def __post_init__(self) -> None:
        if not len(self.texts):
            raise DataError(f"there are no texts in {self.source}")
        for row, text in enumerate(self.texts, 1):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"text {row} of {self.source} is empty; remove it")


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
