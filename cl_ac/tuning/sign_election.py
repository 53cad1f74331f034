"""Merging by the sign that most of the weight is for (Yadav et al., 2023, TIES-Merging)."""

from torch import Tensor


def elect_signs(added: Tensor, weights: Tensor, keep: float = 1.0) -> Tensor:
    """The weighted mean of those of several additions that have the elected sign, place by place.

    At each place the sign of the weighted sum is elected; additions of the other sign, and zeros, do not count. The
    result is as large as a weighted sum: the mean times the sum of all weights.

    Args:
        added: [K, ...].
        weights: at least 0, [K].
        keep: share of each addition that counts at all, its largest values; the published one is 0.2.
    Returns:
        [...].
    """
    flat = added.flatten(1)
    if keep < 1:
        kept = max(round(keep * flat.shape[1]), 1)
        least = flat.abs().kthvalue(flat.shape[1] - kept + 1, 1, keepdim=True).values
        flat = flat.where(flat.abs() >= least, 0)
    weighted = weights[:, None] * flat
    agrees = (flat.sign() == weighted.sum(0).sign()) & (flat != 0)
    total = (weights[:, None] * agrees).sum(0)
    mean = (weighted * agrees).sum(0) / total.where(total > 0, 1)
    return (weights.sum() * mean).view(added.shape[1:])
