"""Labelled texts as a benchmark: tokenised once, kept as token numbers."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from cl_ac.benchmark import Benchmark
from cl_ac.data.samples import Samples
from cl_ac.data.texts import AsTheyAre, padded
from cl_ac.datasets.image_files import drawn_apart
from cl_ac.errors import ConfigurationError, DataError, told


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


class TextSet(Benchmark):
    """Texts with labels; a subclass reads them in `read`. Labels are classes in their order.

    Args:
        tokenizer: a folder, or a name on the hub, of the model whose tokenizer makes tokens of texts; None takes that
            of the backbone, where the command line builds it.
        tokens: how many tokens of a text are kept at most.
        download: whether a tokenizer that is not here is downloaded.
    """

    kind: ClassVar[Literal["images", "texts"]] = "texts"

    def __init__(self, tokenizer: str | None = None, tokens: int = 128, download: bool = False, **splitting):
        super().__init__(augmentation=AsTheyAre(), **splitting)
        if tokens < 1:
            raise ConfigurationError(f"benchmark.tokens is {tokens}; it must be at least 1")
        self.tokenizer, self.tokens, self.download = tokenizer, tokens, download

    @abstractmethod
    def read(self) -> tuple[Texts, Texts | None]:
        """Texts to train on, and those to test on; None takes a fifth of each class of the former, the same for every
        seed."""

    @cached_property
    def _texts(self) -> tuple[Texts, Texts | None]:
        return self.read()

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label."""
        return list(map(str, self._values))

    @cached_property
    def _values(self) -> list[Any]:
        return sorted(set(self._texts[0].labels))

    @property
    def num_classes(self) -> int:
        return len(self._values)

    @cached_property
    def _numbers(self) -> list[list[list[int]]]:
        """Token numbers of the texts to train on, and to test on."""
        found = tokenizer(self.tokenizer, self.download)
        self.vocabulary = len(found)
        return [tokenised(found, part.texts, self.tokens) for part in self._texts if part is not None]

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(1, 1, tokens of the longest text)."""
        return 1, 1, max(len(text) for part in self._numbers for text in part)

    def load(self) -> tuple[Samples, Samples]:
        """All texts as resident token numbers.

        Raises:
            DataError: if a text to test on has a label that none to train on has.
        """
        places = {value: place for place, value in enumerate(self._values)}
        samples = []
        for part, numbers in zip(self._texts, self._numbers, strict=False):
            if part is None:
                continue
            strange = [row for row, label in enumerate(part.labels, 1) if label not in places]
            if strange:
                raise DataError(
                    f"text {strange[0]} of {part.source} has the label '{part.labels[strange[0] - 1]}', which no text "
                    "to train on has"
                )
            targets = torch.tensor([places[label] for label in part.labels])
            samples.append(Samples(padded(numbers, self.image_shape[2]), targets))
        if len(samples) == 1:
            return drawn_apart(samples[0], 0.2)
        return samples[0], samples[1]


def tokenizer(name: str | None, download: bool = False) -> Any:
    """The tokenizer of Hugging Face's transformers in a folder, or of that name on the hub. Runs no code of a model.

    Raises:
        ConfigurationError: if nobody has named one.
        DataError: if it is not here, or the library is missing.
    """
    if name is None:
        raise ConfigurationError("benchmark.tokenizer is absent; name the folder or the model whose tokenizer it is")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError("texts need transformers; install cl_ac[transformers]") from error
    folder = Path(name).expanduser()
    place = str(folder) if folder.is_dir() else name
    try:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=not download)
    # The library raises errors of many others: of files, of the network, of formats.
    except Exception as error:
        way = "" if download or folder.is_dir() else "; --benchmark.download true gets it"
        raise DataError(f"cannot load the tokenizer of '{name}' ({told(error, 100)}){way}") from error


def tokenised(found: Any, texts: Sequence[str], most: int) -> list[list[int]]:
    """The token numbers of texts, at most `most` of each, with the tokens that its model expects around them.

    Raises:
        DataError: if nothing is left of a text.
    """
    numbers = found(list(texts), truncation=True, max_length=most, verbose=False)["input_ids"]
    empty = [row for row, text in enumerate(numbers, 1) if not text]
    if empty:
        raise DataError(f"the tokenizer makes no token of text {empty[0]}; remove it")
    return numbers
