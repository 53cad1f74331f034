"""Assigning points to groups of equal size by how similar they are.

Legend: E groups of M points, P = E·M points.
"""

import torch
from torch import Tensor

# A path to a free seat costs about as much as so many rounds of bids.
PATIENCE = 5


def auction(similarity: Tensor, size: int, prices: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Assigns points so that their summed similarity to their groups is near its maximum (Bertsekas, 1988).

    Each homeless point bids for its best group as much as it prefers it to its second best; a group keeps its M highest
    bids and its price is the lowest of these. With bids raised by ε, the sum ends at most P·ε below the maximum; ε
    shrinks in stages, so that prices first move fast. Points that like the same groups alike, such as pruned neurons,
    outbid each other by no more than ε; where a few points go on for long, each of them takes the best path to a free
    seat instead.

    Args:
        similarity: [P, E].
        size: M.
        prices: where the auction starts [E]; those of a similar one save rounds.

    Returns:
        the group of each point int64 [P], and the prices [E].
    """
    points, groups = similarity.shape
    prices = similarity.new_zeros(groups) if prices is None else prices
    if groups == 1:
        return torch.zeros(points, dtype=torch.int64, device=similarity.device), prices
    spread = similarity.std().item() or 1.0
    taste = _tastes(similarity)
    for step in (0.3, 0.06, 0.012):
        raised = max(step * spread, 1e-6)
        wished = similarity if taste is None else similarity + raised * taste
        owners, prices = _stage(wished, size, prices, raised)
    return owners, prices


def optimal_assignment(similarity: Tensor, size: int) -> Tensor:
    """As `auction`, at the maximum: int64 [P]."""
    from scipy.optimize import linear_sum_assignment

    _, seats = linear_sum_assignment(similarity.double().cpu().repeat_interleave(size, 1).numpy(), maximize=True)
    return torch.from_numpy(seats // size).to(similarity.device)


def _tastes(similarity: Tensor) -> Tensor | None:
    """Random values in [0, 1) where rows [P, E] are equal, 0 elsewhere; None if no rows are.

    Equal points would all bid for the same group at once. Differences as small as the raise of a bid let them bid for
    all groups together.
    """
    _, group, counts = similarity.unique(dim=0, return_inverse=True, return_counts=True)
    repeated = counts[group] > 1
    if not repeated.any():
        return None
    tastes = torch.rand(similarity.shape, generator=torch.Generator().manual_seed(0)).to(similarity)
    return tastes * repeated[:, None]


def _stage(similarity: Tensor, size: int, prices: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """An auction with bids raised by `step`."""
    points, groups = similarity.shape
    prices = prices.clone()
    owners = torch.full((points,), -1, dtype=torch.int64, device=similarity.device)
    bids = similarity.new_zeros(points)
    rounds = 0
    while len(homeless := (owners < 0).nonzero()[:, 0]) and rounds <= PATIENCE * len(homeless):
        best = (similarity[homeless] - prices).topk(2, 1)
        wanted = best.indices[:, 0]
        owners[homeless] = wanted
        bids[homeless] = prices[wanted] + (best.values[:, 0] - best.values[:, 1]) + step
        # Points by group, highest bid first.
        housed = (owners >= 0).nonzero()[:, 0]
        order = housed[bids[housed].argsort(descending=True, stable=True)]
        order = order[owners[order].argsort(stable=True)]
        counts = owners[order].bincount(minlength=groups)
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(order), device=order.device) - starts[owners[order]]
        full = counts >= size
        prices[full] = bids[order[(starts + size - 1)[full]]]
        owners[order[rank >= size]] = -1
        rounds += 1
    for point in homeless:
        _seat(point, similarity, size, prices, owners)
    return owners, prices


def _seat(point: Tensor, similarity: Tensor, size: int, prices: Tensor, owners: Tensor) -> None:
    """Seats a homeless point at the least loss of similarity: it takes a seat whose owner takes another, up to a free
    one. This is the shortest path over the groups, which leaves prices as fair as they were (Tomizawa, 1971).

    Args:
        point: its number [].
        similarity: [P, E].
        prices: [E]; changed.
        owners: the group of each point, -1 if it has none [P]; changed.
    """
    housed = (owners >= 0).nonzero()[:, 0]
    own, net = owners[housed], similarity - prices
    # What each owner of a seat loses by moving to another group.
    loss = net[housed].gather(1, own[:, None]) - net[housed]
    least = similarity.new_full((len(prices), len(prices)), torch.inf)
    least = least.scatter_reduce(0, own[:, None].expand_as(loss), loss, "amin").clamp(min=0)
    distance = net[point].max() - net[point]
    before = torch.full_like(prices, -1, dtype=torch.int64)
    # Bellman-Ford: paths over one more group each time.
    while True:
        shortest, via = (distance[:, None] + least).min(0)
        shorter = shortest < distance
        if not shorter.any():
            break
        distance, before = torch.where(shorter, shortest, distance), torch.where(shorter, via, before)
    free = own.bincount(minlength=len(prices)) < size
    target = int(distance.masked_fill(~free, torch.inf).argmin())
    prices += (distance[target] - distance).clamp(min=0)
    while (source := int(before[target])) >= 0:
        inside = (own == source).nonzero()[:, 0]
        owners[housed[inside[loss[inside, target].argmin()]]] = target
        target = source
    owners[point] = target
