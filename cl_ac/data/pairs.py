"""Items seen from two sides, which of them belong together, and the domains that bring them.

Shapes: N items of the first side, M of the second, P pairs.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cl_ac.data.augmentation import Augmentation
from cl_ac.errors import DataError


@dataclass(frozen=True)
class Pairs:
    """Items of two sides, and which belong together; an item may have several partners.

    Args:
        first: images (uint8 [N, channels, height, width]), texts (int32 [N, 1, 1, tokens]) or numbers (float [N, ...]).
        second: the same of the other side [M, ...].
        matches: index of the first and of the second item of each pair, int64 [P, 2].
    """

    first: Tensor
    second: Tensor
    matches: Tensor

    def __len__(self) -> int:
        return len(self.matches)

    @property
    def sides(self) -> tuple[Tensor, Tensor]:
        return self.first, self.second

    @cached_property
    def _codes(self) -> Tensor:
        """One number for each pair, sorted."""
        return (self.matches[:, 0] * len(self.second) + self.matches[:, 1]).sort().values

    def matching(self, first: Tensor, second: Tensor) -> Tensor:
        """Whether items belong together: bool [A, B], of indices int64 [A] of the first and [B] of the second side."""
        return torch.isin(first[:, None] * len(self.second) + second, self._codes)

    def select(self, chosen: Tensor) -> "Pairs":
        """The pairs at `chosen` (int64), with all items."""
        return Pairs(self.first, self.second, self.matches[chosen])

    @property
    def digest(self) -> str:
        """What the pairs are recognised by."""
        digest = hashlib.blake2b(digest_size=16)
        for value in (*self.sides, self.matches):
            digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def fault(self) -> str | None:
        """What is wrong with pairs that somebody else made, so that "pairs whose …" is a sentence; None if nothing."""
        if not len(self):
            return "number is 0; there must be at least one"
        if self.matches.dtype != torch.int64 or self.matches.ndim != 2 or self.matches.shape[1] != 2:
            return f"matches are {self.matches.dtype} {list(self.matches.shape)}; they must be torch.int64 [P, 2]"
        for name, items, column in zip(("first", "second"), self.sides, self.matches.T, strict=True):
            if column.min() < 0 or column.max() >= len(items):
                return (
                    f"matches name items {int(column.min())} to {int(column.max())} of the {name} side, which has "
                    f"{len(items)}"
                )
        return None


@dataclass(frozen=True)
class Domain:
    """What one task brings.

    Args:
        name: of it.
        train: what may be trained on.
        test: what recall is reported on.
    """

    name: str
    train: Pairs
    test: Pairs


@dataclass(frozen=True)
class Domains:
    """All domains of a benchmark.

    Args:
        learned: one after the other.
        base: what the projections are aligned on before; may be none.
        unseen: tested and never trained on; may be none.
    """

    learned: Sequence[Domain]
    base: Sequence[Domain] = ()
    unseen: Sequence[Domain] = ()

    @property
    def tested(self) -> list[Domain]:
        """Those that recall is reported on, the learned ones first."""
        return [*self.learned, *self.unseen]


class PairBenchmark(ABC):
    """Pairs in domains that come one after the other; a subclass reads them in `load`.

    Args:
        augmentation: how images become inputs of their tower.

    `sides` are the names of the two sides.
    """

    sides: tuple[str, str] = ("first", "second")

    def __init__(self, augmentation: Augmentation = Augmentation()):
        self.augmentation = augmentation

    @abstractmethod
    def load(self) -> Domains:
        """All domains."""

    @cached_property
    def domains(self) -> Domains:
        """All domains with their pairs.

        Raises:
            DataError: if there is none to learn, or a domain has no pairs, or such as cannot be.
        """
        domains = self.load()
        if not domains.learned:
            raise DataError("no domain is left to be learned; name fewer in pairs.base and pairs.unseen")
        for domain in [*domains.base, *domains.tested]:
            used = {"test": domain.test}
            if domain not in domains.unseen:
                used["training"] = domain.train
            for part, pairs in sorted(used.items()):
                if domain in domains.base and part == "test":
                    continue
                if fault := pairs.fault():
                    raise DataError(f"the domain '{domain.name}' has {part} pairs whose {fault}")
        return domains

    def shape(self, side: int) -> tuple[int, ...]:
        """The shape of what the tower of a side reads: of images after augmentation."""
        items = self.domains.learned[0].train.sides[side]
        shape = tuple(items.shape[1:])
        return self.augmentation.output_shape(shape) if items.dtype == torch.uint8 else shape


def joined(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of all `parts`; items of different parts do not belong together."""
    firsts, seconds, matches = [0], [0], []
    for part in parts:
        matches.append(part.matches + torch.tensor([firsts[-1], seconds[-1]]))
        firsts.append(firsts[-1] + len(part.first))
        seconds.append(seconds[-1] + len(part.second))
    return Pairs(
        torch.cat([part.first for part in parts]), torch.cat([part.second for part in parts]), torch.cat(matches)
    )
