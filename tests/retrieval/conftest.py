"""Pairs of numbers in domains that are related to each other in another way each, and towers that read them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cl_ac.data.pairs import Domain, Domains, PairBenchmark, Pairs
from cl_ac.data.seeding import generator, global_stream
from cl_ac.network import Backbone
from cl_ac.retrieval.encoder import DualEncoder

WIDTH = 8


class Arrays(PairBenchmark):
    """Domains in which the second view is a rotation of the first, another one in each, and both are shifted apart.

    Args:
        count: domains that are learned, before an unseen one.
        base: whether there is a base domain.
    """

    def __init__(self, count: int = 3, base: bool = False):
        super().__init__()
        self.count, self.base = count, base

    def load(self) -> Domains:
        domains = [self.domain(index) for index in range(self.count + 2)]
        learned, (unseen, base) = domains[: self.count], domains[self.count :]
        return Domains(learned, [base] if self.base else [], [unseen])

    def domain(self, index: int) -> Domain:
        stream = generator(0, "arrays", index)
        turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=stream)).Q
        shift = 3 * torch.randn(WIDTH, generator=stream)

        def pairs(number: int) -> Pairs:
            first = torch.randn(number, WIDTH, generator=stream)
            places = torch.arange(number)
            return Pairs(
                (first + shift)[:, None, None], (first @ turn + shift)[:, None, None], torch.stack([places] * 2, 1)
            )

        return Domain(f"domain {index}", pairs(60), pairs(20))


@pytest.fixture
def arrays() -> type[Arrays]:
    return Arrays


@pytest.fixture
def make_encoder() -> Callable[..., DualEncoder]:
    """Makes two towers of one hidden layer each."""

    def make(width: int | None = None, outputs: tuple[int, int] = (16, 16), seed: int = 0) -> DualEncoder:
        with global_stream(seed, "backbone"):
            backbones = [
                Backbone(
                    (1, 1, WIDTH),
                    {
                        "flat": nn.Flatten(),
                        "hidden": nn.Sequential(nn.Linear(WIDTH, 32), nn.Tanh()),
                        "out": nn.Sequential(nn.Linear(32, size)),
                    },
                )
                for size in outputs
            ]
        return DualEncoder(backbones, width=width, temperature=0.1, seed=seed)

    return make
