"""What is found: recall at k, and what becomes of it while domains are learned. Q queries, M items of a gallery."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cl_ac.evaluation import forgetting
from cl_ac.streams.metrics import forward_transfer

# How many of the nearest items are looked at.
DEPTHS = (1, 5, 10)


def recall(similarities: Tensor, matches: Tensor, depths: Sequence[int] = DEPTHS) -> Tensor:
    """The share of queries that have a match among their k nearest items.

    Items that are as near as the nearest match come before it, so that answers that tell nothing apart find nothing.

    Args:
        similarities: [Q, M].
        matches: which items belong to which query, bool [Q, M]; queries without any do not count.
        depths: values of k.
    Returns:
        float64 [K]; NaN if no query has a match.
    """
    asked = matches.any(1)
    similarities, matches = similarities[asked], matches[asked]
    best = similarities.masked_fill(~matches, -torch.inf).amax(1, keepdim=True)
    # What is no number, as of an encoder that broke in training, is never behind a match.
    before = (~(similarities < best) & ~matches).sum(1)
    return torch.stack([(before < depth).double().mean() for depth in depths])


def average_recall(recalls: Tensor, domains: int) -> Tensor:
    """Mean over the learned domains at the end, of a matrix [1 + T, domains tested, ...] whose row 0 is before all."""
    return recalls[-1, :domains].mean(0)


def lost_recall(recalls: Tensor, domains: int) -> Tensor:
    """Mean over all domains but the last of how far each is below its best since it was learned; 0 with a single."""
    learned = torch.ones(domains, domains, dtype=torch.bool).tril()
    after = recalls[1 : 1 + domains, :domains]
    lost = forgetting(after.where(learned.view(domains, domains, *[1] * (recalls.ndim - 2)), torch.nan))
    return lost.mean(0) if len(lost) else torch.zeros_like(recalls[0, 0])


def transferred_recall(recalls: Tensor, domains: int) -> Tensor:
    """Mean over all domains but the first of what learning earlier ones has changed just before each is learned."""
    later = range(1, domains)
    before = torch.stack([recalls[domain, domain] for domain in later] or [torch.zeros_like(recalls[0, 0])])
    start = recalls[0, 1:domains] if domains > 1 else torch.zeros_like(before)
    return forward_transfer(before, start)


def unseen_recall(recalls: Tensor, domains: int) -> Tensor | None:
    """Mean over the domains that are never learned, at the end; None without any."""
    unseen = recalls[-1, domains:]
    return unseen.mean(0) if len(unseen) else None
