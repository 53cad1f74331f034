"""Cutting the hidden neurons of a feed-forward network (FFN) into experts of equal size.

A split is an integer tensor [E, M]: the neurons of each expert, ascending. Where E experts of M neurons hold more than
the F neurons of the FFN, numbers from F on stand for neurons that are zero.

Legend: D model width, F hidden neurons, E experts, M neurons per expert.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.backbones.feed_forward import FeedForward
from cl_ac.efficiency.assignment import auction, optimal_assignment
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.kernels.experts import Experts

# MoEfication counts co-activation in groups of so many tokens.
GROUP = 8


def experts_of_size(hidden: int, size: int) -> int:
    """How many experts of `size` neurons hold `hidden` neurons.

    Raises:
        ConfigurationError: if the size does not lie between 1 and `hidden`.
    """
    if not 1 <= size <= hidden:
        raise ConfigurationError(f"experts.size is {size}; with {hidden} neurons it must be between 1 and {hidden}")
    return -(-hidden // size)


def random_split(hidden: int, experts: int, generator: torch.Generator) -> Tensor:
    """Neurons in random order, cut into experts [E, M]."""
    size = -(-hidden // experts)
    return torch.randperm(experts * size, generator=generator).view(experts, size).sort(1).values


def kmeans_split(
    rows: Tensor, experts: int, generator: torch.Generator, rounds: int = 30, exact: bool = False
) -> Tensor:
    """Balanced k-means on the directions of neurons (MoEfication: Zhang et al., 2022; D2DMoE).

    k-means++ chooses the first centroids; then balanced assignment and new centroids alternate until nothing moves, and
    the round of least inertia counts.

    Args:
        rows: a vector for each neuron [F, K], such as its input weights; of a GLU those of the gate, which is what is
            sparse.
        generator: of the CPU.
        exact: assign at the least cost there is (by scipy, slow), instead of by auction, within 0.1 % of it.

    Returns:
        [E, M].

    Raises:
        UserError: if a weight is not a finite number.
    """
    if not rows.isfinite().all():
        raise UserError("the weights of a feed-forward network are not all finite numbers; it cannot be split")
    size = -(-len(rows) // experts)
    points = F.normalize(rows.float(), dim=1)
    points = torch.cat([points, points.new_zeros(experts * size - len(points), points.shape[1])])
    centroids = _spread_out(points, experts, generator)
    prices, owners = points.new_zeros(experts), None
    least, best = torch.inf, torch.arange(experts, device=rows.device).repeat_interleave(size)
    last = torch.inf
    for _ in range(rounds):
        # Squared distances differ from this by terms that every balanced assignment shares.
        similarity = points @ centroids.T - centroids.square().sum(1) / 2
        if exact:
            assigned = optimal_assignment(similarity, size)
        else:
            assigned, prices = auction(similarity, size, prices)
        centroids = torch.zeros_like(centroids).index_add_(0, assigned, points) / size
        spread = (points - centroids[assigned]).square().sum().item()
        if spread < least:
            least, best = spread, assigned
        # Equal points that change places move nothing.
        if owners is not None and (torch.equal(assigned, owners) or abs(last - spread) <= 1e-6 * spread):
            break
        owners, last = assigned, spread
    return _members(best, experts)


def coactivation_split(
    hidden: Tensor, experts: int, generator: torch.Generator, rounds: int = 30, iterations: int = 20
) -> Tensor:
    """Experts of neurons that are active on the same tokens (MoEfication: Zhang et al., 2022).

    The graph of `coactivation` is cut by balanced k-means on its leading eigenvectors, the spectral clustering of Ng,
    Jordan & Weiss (2001), where MoEfication calls METIS and rebalances at random.

    Args:
        hidden: activations of calibration tokens [tokens, F].
        generator: of the CPU.
        iterations: of the subspace iteration that finds the eigenvectors.

    Returns:
        [E, M].
    """
    graph = coactivation(hidden)
    degree = graph.sum(1).clamp(min=1e-12).rsqrt()
    graph = degree[:, None] * graph * degree
    basis = torch.randn(len(graph), min(experts, len(graph)), generator=generator).to(graph)
    for _ in range(iterations):
        basis = torch.linalg.qr(graph @ basis).Q
    return kmeans_split(basis, experts, generator, rounds)


def coactivation(hidden: Tensor) -> Tensor:
    """How often pairs of neurons are active together: the sum over groups of 8 tokens of `min(1, Σ relu(h) relu(h)ᵀ)`.

    Args:
        hidden: [tokens, F].

    Returns:
        [F, F], symmetric.
    """
    graph = hidden.new_zeros(hidden.shape[1], hidden.shape[1], dtype=torch.float32)
    for group in hidden.float().relu().split(GROUP):
        graph += (group.T @ group).clamp_(max=1)
    return graph


def inertia(rows: Tensor, split: Tensor) -> float:
    """Squared distances of the directions of neurons [F, K] to the centroids of their experts, summed."""
    points = F.normalize(rows.double(), dim=1)
    points = torch.cat([points, points.new_zeros(split.numel() - len(points), points.shape[1])])[split.to(rows.device)]
    return (points - points.mean(1, keepdim=True)).square().sum().item()


def expert_weights(feed_forward: FeedForward, split: Tensor) -> Experts:
    """The weights of an FFN cut into experts, as copies; all experts together compute the FFN.

    Raises:
        ConfigurationError: if no kernel knows its activation.
    """
    if feed_forward.activation is None:
        raise ConfigurationError(
            f"the activation of '{feed_forward.name}' ({type(feed_forward.activation_module).__name__}) has no kernel; "
            "set sparsify.loss to hoyer or l1, which replace it by ReLU"
        )
    split = split.to(feed_forward.up.device)

    def rows(weight: Tensor) -> Tensor:
        missing = split.numel() - len(weight)
        return torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])])[split]

    def rows_if_any(weight: Tensor | None) -> Tensor | None:
        return None if weight is None else rows(weight)

    return Experts(
        rows(feed_forward.up),
        rows(feed_forward.down.T),
        feed_forward.activation,
        rows_if_any(feed_forward.up_bias),
        None if feed_forward.down_bias is None else feed_forward.down_bias.clone(),
        rows_if_any(feed_forward.gate),
        rows_if_any(feed_forward.gate_bias),
    )


def _spread_out(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centroids by k-means++ (Arthur & Vassilvitskii, 2007): each drawn with the squared distance to the nearest."""
    draws = torch.rand(count, generator=generator)
    chosen = [int(draws[0] * len(points))]
    distance = (points - points[chosen[0]]).square().sum(1)
    for draw in draws[1:]:
        reached = distance.double().cumsum(0)
        position = torch.searchsorted(reached, draw.to(reached) * reached[-1], right=True)
        chosen.append(min(int(position), len(points) - 1))
        distance = distance.minimum((points - points[chosen[-1]]).square().sum(1))
    return points[chosen]


def _members(owners: Tensor, experts: int) -> Tensor:
    """The points of each group, ascending: [E, M]."""
    return owners.argsort(stable=True).view(experts, -1).cpu()
