"""Losses over stacked logits [E exits, B samples, C classes]: one value per exit, [E].

Pure functions without host synchronisation or shapes that depend on data. The mean over an empty batch is zero, so
that a replay batch drawn from an empty memory adds nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_mean(values: Tensor) -> Tensor:
    """Mean over the samples of values [E, B], giving [E]; zero for an empty batch."""
    return values.sum(1) / max(values.shape[1], 1)


def cross_entropy(logits: Tensor, targets: Tensor, classes: slice = slice(None)) -> Tensor:
    """Softmax cross-entropy of each exit, over some of the classes only.

    Args:
        logits: [E, B, C].
        targets: int64 [B], inside `classes`.
        classes: the columns that the softmax runs over; all by default.
    Returns:
        [E], mean over the batch.
    """
    return sample_mean(cross_entropy_per_sample(logits, targets, classes))


def cross_entropy_per_sample(logits: Tensor, targets: Tensor, classes: slice = slice(None)) -> Tensor:
    """As `cross_entropy`, one value per exit and sample: [E, B]."""
    logits = logits[:, :, classes]
    targets = (targets - (classes.start or 0)).expand(len(logits), -1)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def taskwise_distillation(logits: Tensor, old_logits: Tensor, tasks: list[slice], temperature: float = 2.0) -> Tensor:
    """Kullback–Leibler divergence to the teacher inside each old task, summed over tasks (Ahn et al., 2021, eq. 4).

    `sum_t T² KL(softmax(old_t / T) || softmax(new_t / T))`, mean over the batch.

    Args:
        logits: [E, B, C] of the student.
        old_logits: [E, B, C_old] of the teacher.
        tasks: the columns of each old task.
    Returns:
        [E].
    """
    total = logits.new_zeros(len(logits))
    for task in tasks:
        teacher = F.log_softmax(old_logits[:, :, task] / temperature, -1)
        student = F.log_softmax(logits[:, :, task] / temperature, -1)
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
        total = total + temperature**2 * sample_mean(divergence)
    return total


def global_distillation(logits: Tensor, old_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Soft-target cross-entropy over the concatenation of all old classes (Hinton et al., 2015; as in FACIL).

    No T² factor: it is the form that the published strengths were tuned for.

    Args:
        logits: [E, B, C ≥ C_old] of the student; further columns are left out.
        old_logits: [E, B, C_old] of the teacher.
    Returns:
        [E], mean over the batch.
    """
    teacher = F.softmax(old_logits / temperature, -1)
    student = F.log_softmax(logits[:, :, : old_logits.shape[-1]] / temperature, -1)
    return sample_mean(-(teacher * student).sum(-1))


def multilabel_distillation(logits: Tensor, old_logits: Tensor) -> Tensor:
    """Binary cross-entropy between the sigmoids of student and teacher, summed over old classes (iCaRL, LwF.MC).

    Args:
        logits: [E, B, C ≥ C_old] of the student.
        old_logits: [E, B, C_old] of the teacher.
    Returns:
        [E], mean over the batch.
    """
    student = logits[:, :, : old_logits.shape[-1]]
    per_class = F.binary_cross_entropy_with_logits(student, torch.sigmoid(old_logits), reduction="none")
    return sample_mean(per_class.sum(-1))
