"""What was said before: distances to another network or to stored answers, one value per exit, [E].

Shapes and rules are those of `classification`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.losses.classification import sample_mean

Distillation = Literal["taskwise", "global", "multilabel"]


def distillation(
    kind: Distillation, logits: Tensor, old_logits: Tensor, tasks: list[slice], temperature: float = 2.0
) -> Tensor:
    """The distillation term called `kind`.

    Args:
        kind: `taskwise`, `global` or `multilabel`, see the functions of that name.
        logits: [E, B, C ≥ C_old] of the student.
        old_logits: [E, B, C_old] of the teacher.
        tasks: the columns of each old task, for `taskwise`.
        temperature: of the softmax; `multilabel` has none.
    Returns:
        [E], mean over the batch.
    """
    if kind == "taskwise":
        return taskwise_distillation(logits, old_logits, tasks, temperature)
    if kind == "global":
        return global_distillation(logits, old_logits, temperature)
    return multilabel_distillation(logits, old_logits)


def squared_error(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean of `(logits − wanted)²` over samples and classes, for logits [E, B, C] twice: [E]; zero without samples."""
    return sample_mean((logits - wanted).square().mean(-1))


def masked_squared_error(logits: Tensor, stored: Tensor, mask: Tensor) -> Tensor:
    """Mean of `(logits - stored)²` where `mask` is 1.

    Args:
        logits: [E, B, C].
        stored: [E, B, C].
        mask: 0 or 1, [B, C].
    Returns:
        [E]; zero where the mask is empty.
    """
    errors = mask * (logits - stored) ** 2
    return errors.sum((1, 2)) / mask.sum().clamp(min=1)


def function_distance(logits: Tensor, stored: Tensor) -> Tensor:
    """Euclidean distance between the probabilities now and then (Benjamin et al., 2019, FDR); the norm, not its square.

    Args:
        logits: [E, B, C].
        stored: earlier logits [E, B, C]; −∞ for a class that was not known.
    Returns:
        [E], mean over the batch.
    """
    return sample_mean(torch.linalg.vector_norm(logits.softmax(-1) - stored.softmax(-1), dim=-1))


def transplanted(block: Tensor, known: Tensor, targets: Tensor, share: float) -> Tensor:
    """The logits of some classes, such that none is above `share` of that of the image's own class (X-DER).

    Where the image's own logit is negative, they are shifted by as much (published code multiplies here too, which
    turns their order and may leave one above).

    Args:
        block: [E, B, K].
        known: logits [E, B, classes] that hold the image's own.
        targets: int64 [B].
    Returns:
        [E, B, K].
    """
    own = known.gather(-1, targets.expand(len(known), -1)[..., None])
    highest = block.amax(-1, keepdim=True)
    bound = own - (1 - share) * own.abs()
    lowered = torch.where(own > 0, block * (bound / highest), block - (highest - bound))
    return torch.where(highest > own, lowered, block)


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

    No T² factor: it is the form that the published strengths were tuned for. (Published code also mixes 1e-5 of the
    uniform distribution into the student's probabilities before the logarithm, which log-softmax does not need.)

    Args:
        logits: [E, B, C ≥ C_old] of the student; further columns are left out.
        old_logits: [E, B, C_old] of the teacher.
    Returns:
        [E], mean over the batch.
    """
    teacher = F.softmax(old_logits / temperature, -1)
    student = F.log_softmax(logits[:, :, : old_logits.shape[-1]] / temperature, -1)
    return sample_mean(-(teacher * student).sum(-1))


def padded_distillation(logits: Tensor, old_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Soft-target cross-entropy over all classes, where the teacher gives those it does not know a probability of 0.

    `−T² Σ_c softmax(old / T)_c log softmax(new / T)_c` (van de Ven et al., 2020): new classes are pushed down.

    Args:
        logits: [E, B, C ≥ C_old] of the student; the softmax runs over all columns.
        old_logits: [E, B, C_old] of the teacher.
    Returns:
        [E], mean over the batch.
    """
    teacher = F.softmax(old_logits / temperature, -1)
    student = F.log_softmax(logits / temperature, -1)[:, :, : old_logits.shape[-1]]
    return temperature**2 * sample_mean(-(teacher * student).sum(-1))


def binary_softmax_distillation(logits: Tensor, old_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Binary cross-entropy between the softmax outputs of student and teacher, as in FACIL's EEIL.

    Each probability counts as that of an event of its own, though the softmax makes them depend on each other.

    Args:
        logits: [E, B, C] of the student.
        old_logits: [E, B, C] of the teacher.
    Returns:
        [E], mean over the batch and the classes.
    """
    teacher = F.softmax(old_logits / temperature, -1)
    student = F.log_softmax(logits / temperature, -1)
    # The logarithm of exactly 0 would have no gradient.
    others = torch.log1p(-student.exp().clamp(max=1 - 1e-7))
    return sample_mean(-torch.lerp(others, student, teacher).mean(-1))


def balanced_distillation(logits: Tensor, teacher_logits: Tensor, weights: Tensor, temperature: float = 2.0) -> Tensor:
    """As `global_distillation`, to soft targets that are multiplied by the weight of each class and normalised again
    (Wang et al., 2022, FOSTER).

    Args:
        logits: [E, B, C] of the student.
        teacher_logits: [E, B, C].
        weights: [C].
    Returns:
        [E], mean over the batch.
    """
    return global_distillation(logits, teacher_logits + temperature * weights.log(), temperature)


def auxiliary_distillation(
    logits: Tensor, auxiliary_logits: Tensor, classes: slice, temperature: float = 2.0
) -> Tensor:
    """Soft-target cross-entropy to an auxiliary network over the classes that it learned (Kim et al., 2023, ANCL).

    No T² factor, as in published code. (That code also subtracts the number of old classes from the auxiliary
    logits, which a softmax does not notice.)

    Args:
        logits: [E, B, C] of the student.
        auxiliary_logits: [E, B, C] of the auxiliary network.
        classes: the columns of the new task.
    Returns:
        [E], mean over the batch.
    """
    return global_distillation(logits[:, :, classes], auxiliary_logits[:, :, classes], temperature)


def multilabel_distillation(logits: Tensor, old_logits: Tensor) -> Tensor:
    """Binary cross-entropy between the sigmoids of student and teacher, summed over old classes (iCaRL, LwF.MC).

    Both of its terms count, as in published code; there is no temperature.

    Args:
        logits: [E, B, C ≥ C_old] of the student.
        old_logits: [E, B, C_old] of the teacher.
    Returns:
        [E], mean over the batch.
    """
    student = logits[:, :, : old_logits.shape[-1]]
    per_class = F.binary_cross_entropy_with_logits(student, torch.sigmoid(old_logits), reduction="none")
    return sample_mean(per_class.sum(-1))


def feature_distillation(features: list[Tensor], old_features: list[Tensor]) -> Tensor:
    """How far features turn: `1 − cos(old, new)` (Hou et al., 2019, eq. 6; for PODNet half of POD-flat's square).

    Args:
        features: E tensors [B, D_i] of the student.
        old_features: E tensors [B, D_i] of the teacher.
    Returns:
        [E], mean over the batch.
    """
    cosines = [F.cosine_similarity(new, old, dim=-1) for new, old in zip(features, old_features, strict=True)]
    return sample_mean(1 - torch.stack(cosines).float())


def feature_distances(features: Sequence[Tensor], old_features: Sequence[Tensor]) -> Tensor:
    """How far each sample's features have moved, the Euclidean distance.

    Args:
        features: E tensors [B, ...] of the student.
        old_features: E tensors [B, ...] of the teacher.
    Returns:
        [E, B].
    """
    moved = zip(features, old_features, strict=True)
    return torch.stack([torch.linalg.vector_norm((new - old).float().flatten(1), dim=1) for new, old in moved])


def elastic_distance(moved: Tensor, importance: Tensor) -> Tensor:
    """How far features have moved in the metric of answers (Magistri et al., 2024, EFC): `aᵀ M a`, mean over samples.

    Args:
        moved: what the move makes of logits, a [E, B, C].
        importance: M [E, C, C].
    Returns:
        [E].
    """
    # In float32 under autocast too: squares of small moves vanish in half precision.
    with torch.autocast(moved.device.type, enabled=False):
        moved = moved.float()
        return sample_mean(((moved @ importance) * moved).sum(-1))


def spatial_distillation(maps: list[list[Tensor]], old_maps: list[list[Tensor]]) -> Tensor:
    """POD-spatial: distance between squared maps, summed over rows and columns (Douillard et al., 2020, eq. 5).

    For each map, the sums over the width and over the height are joined and normalised to length 1, as in published
    code; the Euclidean distances are averaged over samples and maps.

    Args:
        maps: for each exit, feature maps [B, channels, height, width] of the student, one or more.
        old_maps: the same of the teacher.
    Returns:
        [E].
    """
    losses = []
    for new, old in zip(maps, old_maps, strict=True):
        distances = [
            torch.linalg.vector_norm(_pooled_energy(a) - _pooled_energy(b), dim=-1)
            for a, b in zip(new, old, strict=True)
        ]
        losses.append(torch.stack(distances).mean())
    return torch.stack(losses)


def attention_distance(maps: list[Tensor], old_maps: list[Tensor]) -> Tensor:
    """Sum of absolute differences between attention maps of length 1 (Dhar et al., 2019, LwM).

    Args:
        maps: for each exit [B, height, width], of the student.
        old_maps: the same of the teacher.
    Returns:
        [E], mean over the batch.
    """
    pairs = zip(maps, old_maps, strict=True)
    differences = [F.normalize(new.flatten(1), dim=1) - F.normalize(old.flatten(1), dim=1) for new, old in pairs]
    return sample_mean(torch.stack([difference.abs().sum(1) for difference in differences]))


def _pooled_energy(feature_map: Tensor) -> Tensor:
    """Squares of [B, channels, height, width] summed over width and over height, joined, of length 1: [B, ...]."""
    energy = feature_map.float().square()
    return F.normalize(torch.cat([energy.sum(3).flatten(1), energy.sum(2).flatten(1)], -1), dim=-1)
