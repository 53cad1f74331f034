"""The greedy search that spends sparsity where it costs least (algorithm 1 of TEAL: Liu et al., 2024)."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

Level = TypeVar("Level")
Outcome = TypeVar("Outcome")


def greedy(
    levels: Mapping[str, Level],
    raised: Callable[[str, Level], Level | None],
    outcome: Callable[[Mapping[str, Level]], Outcome],
    price: Callable[[Outcome, Outcome], float],
) -> Iterator[tuple[dict[str, Level], Outcome]]:
    """Raises one level after the other, each time the one of least price; gives all levels and their outcome.

    Args:
        levels: at the start, which is given first.
        raised: the next level of a name, or None where it stays.
        outcome: of all levels together.
        price: of going from one outcome to another.
    """
    levels, now = dict(levels), outcome(levels)
    yield levels, now
    while raises := {name: higher for name, level in levels.items() if (higher := raised(name, level)) is not None}:
        outcomes = {name: outcome({**levels, name: higher}) for name, higher in raises.items()}
        best = min(outcomes, key=lambda name: price(now, outcomes[name]))
        levels, now = {**levels, best: raises[best]}, outcomes[best]
        yield levels, now
