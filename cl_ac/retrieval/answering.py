"""Test items under one mix of adapters or another, each embedded once. Shapes: Q queries, M items of a gallery."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from cl_ac.data.pairs import Domain
from cl_ac.retrieval.encoder import DualEncoder
from cl_ac.tuning.bank import Merge, mixed
from cl_ac.tuning.sample_mixes import mixed_by_sample

# The weight of each adapter that has one, by its index.
Mix: TypeAlias = tuple[tuple[int, float], ...]
BASE: Mix = ()


class TestItems:
    """The test items of all domains, as the encoder sees them.

    Args:
        encoder: embeds them.
        domains: whose items they are.
    """

    __test__ = False  # no test, whatever its name begins with

    def __init__(self, encoder: DualEncoder, domains: Sequence[Domain]):
        self.encoder, self.domains = encoder, domains
        self._known: dict[tuple[int, int, Mix | None, str], Tensor] = {}

    def forget(self) -> None:
        """Embeds everything again when it is asked for, since the encoder has changed."""
        self._known.clear()

    def items(self, side: int, domain: int) -> Tensor:
        """As they are stored [N, ...]."""
        return self.domains[domain].test.sides[side]

    def embedded(self, side: int, domain: int, mix: Mix | None = None, merge: Merge | None = None) -> Tensor:
        """All items of a side of a domain [N, D].

        Args:
            mix: of adapters; None leaves the encoder as it is.
            merge: how those of a mix become one; None for their weighted sum.
        """
        key = side, domain, mix, "" if merge is None else repr(merge)
        if key not in self._known:
            self._known[key] = self.embed(side, self.items(side, domain), mix, merge)
        return self._known[key]

    def gallery(self, side: int, domains: Sequence[int], mix: Mix | None = None, merge: Merge | None = None) -> Tensor:
        """All items of a side of several domains, one after the other [M, D]."""
        return torch.cat([self.embedded(side, domain, mix, merge) for domain in domains])

    def embed(self, side: int, items: Tensor, mix: Mix | None, merge: Merge | None = None) -> Tensor:
        """Any items [N, ...] of a side, under a mix: [N, D]."""
        if mix is None:
            return self.encoder.embed(side, items)
        with mixed(self.encoder, dict(mix), merge):
            return self.encoder.embed(side, items)

    def embed_mixed(self, side: int, items: Tensor, weights: Tensor) -> Tensor:
        """Any items [N, ...] of a side, each under its own mix `weights` [N, T]: [N, D]."""
        size, found = self.encoder.at_once(side), []
        for part, rows in zip(items.split(size), weights.split(size), strict=True):
            with mixed_by_sample(self.encoder.backbones[side], rows):
                found.append(self.encoder.embed(side, part))
        return torch.cat(found)


def mixes_of(weights: Tensor) -> list[tuple[Mix, Tensor]]:
    """The different rows of weights [Q, T] as mixes, each with the indices of the queries that have it."""
    rows, place = weights.unique(dim=0, return_inverse=True)
    found = []
    for index, row in enumerate(rows.tolist()):
        mix = tuple((adapter, weight) for adapter, weight in enumerate(row) if weight)
        found.append((mix, (place == index).nonzero()[:, 0]))
    return found
