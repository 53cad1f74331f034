"""Pairs in tables, such as images with captions, or queries with what answers them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.pairs import Domain, Domains, PairBenchmark, Pairs
from cl_ac.data.samples import ImageFiles
from cl_ac.data.tables import read_table
from cl_ac.data.texts import padded
from cl_ac.data.tokenizing import tokenised, tokenizer
from cl_ac.datasets.image_files import decoded
from cl_ac.errors import ConfigurationError, DataError, unknown

Kind = Literal["image", "text"]


class PairTable(PairBenchmark):
    """Pairs in files: `.csv` with a header, or `.jsonl` with an object in each line; a row is a pair.

    A row names the domain that it is of, and two items: texts, or paths of images. Items that are the same in several
    rows of a domain are one item with several partners.

    Args:
        train: the file with pairs to train on.
        test: that with pairs to test on.
        columns: those of both sides.
        kinds: whether a side is of images or of texts.
        domain: the column of domains.
        learned: the domains to learn, in this order; None for all others, in the order of the file.
        base: domains that projections are aligned on before.
        unseen: domains that are tested and never trained on.
        root: folder that paths of images begin in; None for that of the file.
        size: side in pixels of the images kept; `augmentation.size` is the side of what a tower sees.
        tokenizers: of each side, a folder or a name on the hub of the model whose tokenizer makes tokens of its texts;
            None takes that of the tower, where the command line builds it.
        tokens: how many tokens of a text are kept at most.
        augmentation: how images become inputs of a tower.
    """

    def __init__(
        self,
        train: str,
        test: str,
        columns: tuple[str, str] = ("image", "text"),
        kinds: tuple[Kind, Kind] = ("image", "text"),
        domain: str = "domain",
        learned: list[str] | None = None,
        base: tuple[str, ...] = (),
        unseen: tuple[str, ...] = (),
        root: str | None = None,
        size: int = 256,
        tokenizers: tuple[str | None, str | None] = (None, None),
        tokens: int = 64,
        augmentation: Augmentation = Augmentation(),
    ):
        super().__init__(augmentation)
        if len({*columns, domain}) < 3:
            raise ConfigurationError(
                f"pairs.columns is {list(columns)} and pairs.domain '{domain}'; name three different columns"
            )
        if min(size, tokens) < 1:
            raise ConfigurationError(f"pairs.size is {size} and pairs.tokens {tokens}; both must be at least 1")
        named = [*(learned or ()), *base, *unseen]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ConfigurationError(
                f"the domain '{twice[0]}' is named more than once in pairs.learned, pairs.base and pairs.unseen"
            )
        self.train, self.test, self.columns, self.kinds, self.domain = train, test, columns, kinds, domain
        self.learned, self.base, self.unseen = learned, base, unseen
        self.root, self.size, self.tokenizers, self.tokens = root, size, list(tokenizers), tokens
        self.sides = columns

    def load(self) -> Domains:
        files = {part: self._rows(getattr(self, part)) for part in ("train", "test")}
        names = list(dict.fromkeys(name for rows in files.values() for name in rows))
        for wanted in [*(self.learned or ()), *self.base, *self.unseen]:
            if wanted not in names:
                raise DataError(unknown(f"domain of '{self.train}'", wanted, names))
        rest = [name for name in names if name not in (*self.base, *self.unseen)]
        read = {name: Domain(name, *(self._pairs(files[part].get(name, [])) for part in files)) for name in names}
        groups = [[read[name] for name in group] for group in (self.learned or rest, self.base, self.unseen)]
        return Domains(*groups)

    def _rows(self, path: str) -> dict[str, list[tuple[str, str]]]:
        """The pairs of a file by domain.

        Raises:
            DataError: if a row has no domain, or an empty item.
        """
        found: dict[str, list[tuple[str, str]]] = {}
        for number, row in enumerate(read_table(path, (*self.columns, self.domain)), 1):
            for column in (*self.columns, self.domain):
                if row[column] is None or not str(row[column]).strip():
                    raise DataError(f"row {number} of '{path}' has an empty '{column}'; fill it in, or remove the row")
            first, second = (str(row[column]) for column in self.columns)
            found.setdefault(str(row[self.domain]), []).append((first, second))
        if not found:
            raise DataError(f"there are no pairs in '{path}'")
        return found

    def _pairs(self, rows: Sequence[tuple[str, str]]) -> Pairs:
        sides, places = [], []
        for side in range(2):
            values = [row[side] for row in rows]
            index = {value: place for place, value in enumerate(dict.fromkeys(values))}
            sides.append(self._items(side, list(index)))
            places.append(torch.tensor([index[value] for value in values], dtype=torch.int64))
        return Pairs(sides[0], sides[1], torch.stack(places, 1).unique(dim=0))

    def _items(self, side: int, values: Sequence[str]) -> Tensor:
        """Images [N, 3, size, size] or token numbers [N, 1, 1, tokens]."""
        if self.kinds[side] == "image":
            root = Path(self.train if self.root is None else self.root).expanduser()
            folder = root.parent if self.root is None else root
            return decoded(ImageFiles([folder / value for value in values], self.size))
        if not values:
            return torch.empty(0, 1, 1, self.tokens, dtype=torch.int32)
        return padded(tokenised(self._tokenizer(side), values, self.tokens), self.tokens)

    def _tokenizer(self, side: int) -> Any:
        return self._found[side]

    @cached_property
    def _found(self) -> Mapping[int, Any]:
        """The tokenizer of each side of texts."""
        for side, (kind, name) in enumerate(zip(self.kinds, self.tokenizers, strict=True)):
            if kind == "text" and name is None:
                raise ConfigurationError(
                    f"pairs.tokenizers names none for '{self.columns[side]}'; name the folder or the model whose "
                    "tokenizer it is"
                )
        return {side: tokenizer(self.tokenizers[side]) for side in range(2) if self.kinds[side] == "text"}
