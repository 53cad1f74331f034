"""What accuracy is asked for on streams. Pure functions; shapes: C classes, E exits, N samples, T tasks."""

import torch
from torch import Tensor

from cl_ac.data.samples import Samples

# The most frequent class has more than as many training samples as the rarest: a long tail.
LONG_TAIL = 5


def accuracy_on(correct: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
    """Accuracy [E] over the samples of some classes; NaN if there are none.

    Args:
        correct: whether each exit is right, bool [E, N].
        targets: int64 [N].
        classes: which classes count, bool [C].
    """
    return correct[:, classes[targets]].double().mean(1)


def missing_classes(present: Tensor, classes_seen: int) -> Tensor:
    """Which of the classes seen so far a task does not bring again (Hemati et al., 2023): bool [C].

    Args:
        present: the targets of its training samples, int64 [N].
    """
    missing = torch.ones(classes_seen, dtype=torch.bool)
    missing[present] = False
    return missing


def thirds(counts: Tensor) -> Tensor | None:
    """The third of the classes with the most training samples, the middle one and that with the fewest: bool [3, C].

    What does not divide goes to the earlier ones, the first of equally frequent classes comes first. None where there
    is no long tail, or fewer than three classes.

    Args:
        counts: training samples of each class, int64 [C].
    """
    if len(counts) < 3 or counts.max() <= LONG_TAIL * counts.min():
        return None
    masks = torch.zeros(3, len(counts), dtype=torch.bool)
    for mask, classes in zip(masks, counts.argsort(descending=True, stable=True).tensor_split(3), strict=True):
        mask[classes] = True
    return masks


def forward_transfer(before: Tensor, untrained: Tensor) -> Tensor:
    """What earlier tasks are worth for the next one (Lopez-Paz & Ranzato, 2017, FWT): `mean_t a[t − 1, t] − b[t]`.

    Args:
        before: accuracy on each task but the first, just before it is learned [T − 1, E].
        untrained: accuracy on the same of the network as the run began [T − 1, E].
    Returns:
        [E].
    """
    return (before - untrained).mean(0)


def corrupted_share(samples: Samples) -> float | None:
    """The share of samples whose label is wrong; None if true labels are not known, or there are no samples."""
    true_targets = samples.extras.get("true_targets")
    if true_targets is None or not len(samples):
        return None
    return float((samples.targets != true_targets.to(samples.targets.device)).double().mean())
