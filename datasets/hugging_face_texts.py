"""Any data set of the Hugging Face Hub that has texts and labels."""

from cl_ac.data.tables import Texts
from cl_ac.datasets.hugging_face import splits
from cl_ac.datasets.text_set import TextSet
from cl_ac.errors import DataError, unknown


class HuggingFaceTexts(TextSet):
    """A data set of the Hugging Face Hub, or a local folder that the library `datasets` reads, with texts and labels.

    It needs `pip install datasets`.

    Args:
        name: the name on the Hub, or a folder: of parquet files, or saved by `save_to_disk`.
        config: which of its configurations, where it has several.
        train: the name of the split that is trained on.
        test: that of the split that is tested on; null takes a fifth of each class from the training texts, the same
            for every seed.
        text: the column of texts.
        label: the column of labels.
        download: whether to download the data set, and the tokenizer, if they are not in the libraries' caches.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        train: str = "train",
        test: str | None = "test",
        text: str = "text",
        label: str = "label",
        tokenizer: str | None = None,
        tokens: int = 128,
        download: bool = False,
        **splitting,
    ):
        super().__init__(tokenizer, tokens, download, **splitting)
        self.name, self.config, self.train, self.test = name, config, train, test
        self.text, self.label = text, label

    def read(self) -> tuple[Texts, Texts | None]:
        tables = splits(self.name, self.config, self.train, self.download)
        wanted = [self.train] if self.test is None else [self.train, self.test]
        found = []
        for split in wanted:
            if split not in tables:
                raise DataError(f"'{self.name}' has no such split: {unknown('split', split, tables)}")
            table = tables[split]
            for column in (self.text, self.label):
                if column not in table.column_names:
                    raise DataError(
                        f"split '{split}' of '{self.name}': {unknown('column', column, table.column_names)}"
                    )
            kind, labels = table.features[self.label], list(table[self.label])
            missing = [row for row, label in enumerate(labels, 1) if label is None or isinstance(label, list | dict)]
            if missing:
                raise DataError(
                    f"text {missing[0]} of the split '{split}' of '{self.name}' has not one label; remove it"
                )
            if hasattr(kind, "int2str"):
                labels = [kind.int2str(label) if label >= 0 else str(label) for label in labels]
            found.append(Texts(f"the split '{split}' of '{self.name}'", list(table[self.text]), labels))
        return found[0], found[1] if len(found) == 2 else None
