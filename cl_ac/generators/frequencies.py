"""How often replay enters at which level (Progressive Latent Replay).

L levels, the shallowest first.
"""

import math
from collections.abc import Sequence
from typing import Literal

from cl_ac.errors import ConfigurationError

Rule = Literal["basic", "cumulative_weights", "total_weights", "input_size", "layer_index"]


def frequencies(rule: Rule, weights: Sequence[int], sizes: Sequence[int]) -> list[float]:
    """The share of replayed samples that enters at each level [L].

    `basic` is 1 / L. The others are proportional to: `cumulative_weights` 1 / Σ_{m ≥ l} w_m, `total_weights` 1 / w_l,
    `input_size` the number of features, `layer_index` l + 1.

    Args:
        weights: w_l, weights and biases between level l and the next one, at last up to the logits [L].
        sizes: features of each level [L].
    Raises:
        ConfigurationError: if a rule divides by a level that has no weights.
    """
    if rule in ("total_weights", "cumulative_weights") and 0 in weights:
        raise ConfigurationError(
            f"the rule {rule} divides by the weights above each level, but there are none between level "
            f"{weights.index(0)} and the next one; leave one of the two out"
        )
    scores = {
        "basic": [1.0] * len(weights),
        "cumulative_weights": [1 / max(sum(weights[level:]), 1) for level in range(len(weights))],
        "total_weights": [1 / max(weight, 1) for weight in weights],
        "input_size": [float(size) for size in sizes],
        "layer_index": [level + 1.0 for level in range(len(weights))],
    }[rule]
    return [score / sum(scores) for score in scores]


def check_frequencies(shares: Sequence[float], levels: int, setting: str) -> None:
    """Raises a `ConfigurationError` unless `shares` holds a share of at least 0 for each level, 1 together."""
    if len(shares) != levels or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigurationError(
            f"{setting} is {list(shares)}, which sums to {sum(shares):g}; give one share of at least 0 for each of the "
            f"{levels} levels, which sum to 1"
        )


def split(shares: Sequence[float], samples: int) -> list[int]:
    """How many of `samples` enter at each level [L]: `⌈f_l · samples⌉`, shallowest first, until none is left."""
    counts, left = [], samples
    for share in shares:
        # What rounding adds to a product is no sample.
        counts.append(min(left, math.ceil(share * samples - 1e-9)))
        left -= counts[-1]
    # Shares that are rounded down together leave some for the deepest.
    counts[-1] += left
    return counts


def relative_cost(shares: Sequence[float], weights: Sequence[int]) -> float:
    """Weights that a replayed sample passes in the mean, as a share of all above level 0: the paper's measure of cost.

    It leaves out the backward pass, the decoder, the teacher and new samples, and takes a weight for one
    multiply-accumulate, as it is in linear layers.
    """
    passed = [weight * sum(shares[: level + 1]) for level, weight in enumerate(weights)]
    return sum(passed) / sum(weights)
