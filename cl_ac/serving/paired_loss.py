"""How much accuracy a model loses against a reference that answered the same samples, as a confidence bound.

Samples that both answer correctly, or both wrongly, tell nothing; what counts are those lost (only the reference is
right) and won (only the model is right).
"""

import math
from statistics import NormalDist

# Confidence of all bounds, one-sided.
LEVEL = 0.95
_QUANTILE = NormalDist().inv_cdf(LEVEL)


def loss_bound(lost: int, won: int, samples: int) -> float:
    """The upper bound, at confidence `LEVEL`, of the accuracy that is lost: Tango's score interval (1998), one-sided.

    Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    Statistics in Medicine 17, sections 3 and 4. Unlike that of the normal interval its width is right where few or no
    samples differ. It is asymptotic: enumerated for true losses of 0.5 to 5 % and 50 to 2,000 samples, the loss is
    above the bound in at most 6.7 % of all draws, whatever is won besides.
    """
    low, high = (lost - won) / samples, 1.0
    if low >= high:
        return high
    # The statistic falls as the loss that it assumes grows.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(lost, won, samples, middle) > -_QUANTILE else (low, middle)
    return high


def _score(lost: int, won: int, samples: int, loss: float) -> float:
    """How many standard deviations more was lost than a true loss lets expect (Tango, 1998, equations 3 and 4)."""
    linear = -lost - won + (2 * samples - lost + won) * loss
    constant = -won * loss * (1 - loss)
    # The likeliest share of samples won, given the loss.
    share = (math.sqrt(linear**2 - 8 * samples * constant) - linear) / (4 * samples)
    variance = samples * (2 * share + loss * (1 - loss))
    return (lost - won - samples * loss) / math.sqrt(variance)


def samples_needed(loss: float) -> int:
    """The fewest samples whose bound is at most `loss` where none is lost or won."""
    return math.ceil(_QUANTILE**2 * (1 - loss) / loss)
