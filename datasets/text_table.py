"""Texts in tables: files of comma-separated values, or of one JSON object a line."""

from cl_ac.data.tables import Texts, labelled
from cl_ac.datasets.text_set import TextSet
from cl_ac.errors import ConfigurationError


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
