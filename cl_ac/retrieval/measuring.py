"""What a method finds among the test items of all domains. K depths of recall."""

from typing import Any

import torch
from torch import Tensor

from cl_ac.data.pairs import Domains
from cl_ac.retrieval.answering import TestItems
from cl_ac.retrieval.method import Method
from cl_ac.retrieval.recall import recall


@torch.no_grad()
def measured(
    method: Method, items: TestItems, domains: Domains, sides: tuple[str, str], gallery: str, learned: int
) -> dict[str, Any]:
    """What `RecallRecord` takes of names, recalls and routes."""
    tested = domains.tested
    found: dict[str, list[list[list[float]]]] = {}
    for rule in method.rules:
        found[rule] = [
            [searched(method, rule, items, side, index, gallery).tolist() for index in range(len(tested))]
            for side in range(2)
        ]
    routed = unknown = None
    if method.routing(items, 0, 0) is not None:
        routed, unknown = [], []
        for side in range(2):
            answers = [method.routing(items, side, index) for index in range(len(tested))]
            routed.append([
                (chosen == index).double().mean().item() if index < learned else float("nan")
                for index, (chosen, _) in enumerate(answers)
            ])  # fmt: skip
            unknown.append([(~known).double().mean().item() for _, known in answers])
    return {
        "domains": [domain.name for domain in tested],
        "unseen": len(domains.unseen),
        "sides": list(sides),
        "recall": found,
        "routed": routed,
        "unknown": unknown,
    }


def searched(method: Method, rule: str, items: TestItems, side: int, domain: int, gallery: str) -> Tensor:
    """Recall at all depths of the queries of a side of a domain [K]."""
    places = [domain] if gallery == "domain" else list(range(len(items.domains)))
    sizes = [len(items.items(1 - side, place)) for place in places]
    pairs = items.domains[domain].test
    queries, own = (torch.arange(len(items.items(each, domain))) for each in (side, 1 - side))
    matches = pairs.matching(queries, own) if side == 0 else pairs.matching(own, queries).T
    belongs = [
        matches if place == domain else matches.new_zeros(len(queries), size)
        for place, size in zip(places, sizes, strict=True)
    ]
    return recall(method.similarities(rule, items, side, domain, places).cpu(), torch.cat(belongs, 1))
