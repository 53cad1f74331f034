"""Labelled texts as a benchmark: tokenised once, kept as token numbers."""

from abc import abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_ac.benchmark import Benchmark
from cl_ac.data.samples import Samples
from cl_ac.data.tables import Texts
from cl_ac.data.texts import AsTheyAre, padded
from cl_ac.data.tokenizing import tokenised, tokenizer
from cl_ac.datasets.image_files import drawn_apart
from cl_ac.errors import ConfigurationError, DataError


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

    def stored(self, things: Iterable[str]) -> Tensor:
        """Texts as the others are stored, cut at the length of the longest: [B, 1, 1, tokens]."""
        length = self.image_shape[2]
        return padded(tokenised(tokenizer(self.tokenizer, self.download), list(things), length), length)

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(1, 1, tokens of the longest text)."""
        return 1, 1, max(len(text) for part in self._numbers for text in part)

    def load(self) -> tuple[Samples, Samples]:
        """All texts as resident token numbers.

        Raises:
            DataError: if a text to test on has a label that none to train on has.
        """
        # By their names: whether labels are numbers is asked of each file, and 1 may be text in one of them.
        places = {str(value): place for place, value in enumerate(self._values)}
        samples = []
        for part, numbers in zip(self._texts, self._numbers, strict=False):
            if part is None:
                continue
            strange = [row for row, label in enumerate(part.labels, 1) if str(label) not in places]
            if strange:
                raise DataError(
                    f"text {strange[0]} of {part.source} has the label '{part.labels[strange[0] - 1]}', which no text "
                    "to train on has"
                )
            targets = torch.tensor([places[str(label)] for label in part.labels])
            samples.append(Samples(padded(numbers, self.image_shape[2]), targets))
        if len(samples) == 1:
            return drawn_apart(samples[0], 0.2)
        return samples[0], samples[1]
