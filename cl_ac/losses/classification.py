"""What is right: losses against targets, over stacked logits [E exits, B samples, C classes], one value per exit, [E].

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


def present_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the classes that occur among `targets` (ER-ACE, Caccia et al., 2022, its term of new images).

    Args:
        logits: [E, B, C].
        targets: int64 [B].
    Returns:
        [E], mean over the batch.
    """
    present = (targets[:, None] == torch.arange(logits.shape[-1], device=logits.device)).any(0)
    return cross_entropy(logits.masked_fill(~present, -torch.inf), targets)


def taskwise_cross_entropy_per_sample(logits: Tensor, targets: Tensor, tasks: list[slice]) -> Tensor:
    """Cross-entropy of every sample over the classes of its own task, as where the task is known.

    Args:
        logits: [E, B, C].
        targets: int64 [B].
        tasks: the columns of each task.
    Returns:
        [E, B]; zero for a sample of none of the tasks.
    """
    total = torch.zeros_like(logits[:, :, 0])
    for task in tasks:
        inside = targets.clamp(task.start, task.stop - 1)
        total = total + (inside == targets) * cross_entropy_per_sample(logits, inside, task)
    return total


def auxiliary_cross_entropy(outputs: Tensor, targets: Tensor, new: slice) -> Tensor:
    """Cross-entropy among the new classes and one more, the first, for all old ones (Yan et al., 2021, DER).

    Args:
        outputs: [E, B, 1 + new classes] of auxiliary heads.
        targets: int64 [B], of any class.
        new: the columns of the current task.
    Returns:
        [E], mean over the batch.
    """
    return cross_entropy(outputs, (targets - new.start + 1).clamp(min=0))


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """Weights [C], of mean 1, of classes with `counts` samples: `(1 − β) / (1 − βⁿ)` (Cui et al., 2019).

    Args:
        counts: int64 [C]; a class without samples weighs as one with a single sample.
        beta: from 0, where all weigh the same, to 1, where they weigh the inverse of their number.
    """
    weights = (1 - beta) / (1 - beta ** counts.clamp(min=1).float())
    return weights / weights.mean()


def tasks_at_one_norm(logits: Tensor, tasks: list[slice], norm: float) -> Tensor:
    """Logits divided by `norm` times the mean, over tasks, of the length of a task's logits (Zhang et al., 2023, SLCA).

    Args:
        logits: [E, B, C].
        tasks: the columns of each task.
    Returns:
        [E, B, C].
    """
    lengths = torch.stack([logits[..., task].norm(dim=-1, keepdim=True) for task in tasks]).mean(0)
    return logits / (norm * lengths.clamp(min=1e-7))


def separated_cross_entropy(logits: Tensor, targets: Tensor, split: int, old: slice, new: slice) -> Tensor:
    """Separated softmax (SS-IL, Ahn et al., 2021, eq. 3): new samples among new classes, replayed ones among old.

    Args:
        logits: [E, B, C].
        targets: int64 [B].
        split: samples before this position are new.
        old: the columns of earlier tasks, with the targets from position `split` on.
        new: the columns of the current task, with the targets before it.
    Returns:
        [E], mean over all B samples.
    """
    current = cross_entropy_per_sample(logits[:, :split], targets[:split], new)
    replayed = cross_entropy_per_sample(logits[:, split:], targets[split:], old)
    return sample_mean(torch.cat([current, replayed], 1))


def intertask_cross_entropy(logits: Tensor, classes: slice) -> Tensor:
    """-log of the probability that the softmax gives to `classes` as a group: [E], mean over logits [E, B, C]."""
    return sample_mean(logits.logsumexp(-1) - logits[:, :, classes].logsumexp(-1))


def margin_ranking(cosines: Tensor, targets: Tensor, old: slice, new: slice, margin: float, rivals: int) -> Tensor:
    """Keeps the scores of an old class a margin above its strongest new rivals (Hou et al., 2019, eq. 8).

    `max(0, margin − cos_y + cos_k)`, mean over the `rivals` highest new classes k and over the samples of old classes
    (as published code does; the paper sums over k). Zero if no sample is of an old class.

    Args:
        cosines: [E, B, C].
        targets: int64 [B].
        old: the columns of old classes, from 0.
        new: the columns of new classes.
    Returns:
        [E].
    """
    own = cosines.gather(-1, targets.expand(len(cosines), -1)[..., None])
    strongest = cosines[..., new].topk(min(rivals, new.stop - new.start), -1).values
    per_sample = F.relu(margin - own + strongest).mean(-1)
    is_old = (targets < old.stop).to(per_sample.dtype)
    return (per_sample * is_old).sum(-1) / is_old.sum().clamp(min=1)


def supervised_contrast(outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020, eq. 2), of outputs normalised to length 1.

    `−mean_{p of the same class} log (exp(x · x_p / T) / Σ_{others} exp(x · x_o / T))`, mean over all samples; zero for
    a sample without another of its class.

    Args:
        outputs: [E, B, D]; views of one image are samples of one class.
        targets: int64 [B].
    Returns:
        [E].
    """
    outputs = F.normalize(outputs.float(), dim=-1)
    itself = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    # One product for each exit: those of a batch differ in the last digits with the number of exits. In float32 under
    # autocast too: divided by a low temperature, what half precision cannot tell apart is much.
    with torch.autocast(outputs.device.type, enabled=False):
        similarities = torch.stack([each @ each.T for each in outputs]) / temperature
    # Finite, so that a sample's similarity to itself, which counts nothing, stays a number.
    similarities = similarities.masked_fill(itself, torch.finfo(similarities.dtype).min / 2)
    positives = (targets[:, None] == targets) & ~itself
    log_probabilities = similarities - similarities.logsumexp(-1, keepdim=True)
    return sample_mean(-(positives * log_probabilities).sum(-1) / positives.sum(-1).clamp(min=1))


def future_constraint(logits: Tensor, own: Tensor, counts: Tensor, margin: float) -> Tensor:
    """Keeps classes still to come a margin below those of each sample's task (Boschini et al., 2022, X-DER).

    `max(0, margin + max z_future − max z_own)`, mean over the samples where it is not 0.

    Args:
        logits: [E, B, C]; columns after the first K are of classes to come.
        own: which columns so far are of the sample's task: bool [B, K].
        counts: which samples count: bool [B].
    Returns:
        [E]; zero if there is nothing to come.
    """
    seen, future = logits[..., : own.shape[1]], logits[..., own.shape[1] :]
    if not future.shape[-1]:
        return logits.new_zeros(len(logits))
    highest = seen.masked_fill(~own, torch.finfo(seen.dtype).min).amax(-1)
    return _mean_of_violations(counts * (margin + future.amax(-1) - highest))


def past_constraint(logits: Tensor, old: slice, new: slice, margin: float) -> Tensor:
    """Lifts the new classes of new samples a margin above old ones (Boschini et al., 2022, X-DER).

    `max(0, margin + max p_old − max p_new)` of the softmax over both, mean over the samples where it is not 0; no
    gradient goes through p_old itself.

    Args:
        logits: [E, B, C] of new samples.
        old: the columns of old classes.
        new: the columns of new ones.
    Returns:
        [E]; zero if there are no old classes.
    """
    probabilities = logits[..., : new.stop].softmax(-1)
    if not old.stop:
        return logits.new_zeros(len(logits))
    strongest = probabilities[..., old].amax(-1).detach()
    return _mean_of_violations(margin + strongest - probabilities[..., new].amax(-1))


def _mean_of_violations(excess: Tensor) -> Tensor:
    """Mean of the positive values of [E, B] at each exit: [E]; zero if there are none."""
    excess = F.relu(excess)
    return excess.sum(1) / (excess > 0).sum(1).clamp(min=1)


def nca(logits: Tensor, targets: Tensor, margins: Tensor) -> Tensor:
    """Hinged neighbourhood component analysis with a margin (Douillard et al., 2020, PODNet, eq. 9).

    `max(0, −(z_y − m) + log Σ_{c ≠ y} exp z_c)`, mean over the batch. (Published code subtracts the largest logit and
    then sets the target's to 0, so that its sum has the largest term in the place of the target's.)

    Args:
        logits: scaled similarities [E, B, C].
        targets: int64 [B].
        margins: the margin of each exit, in units of its logits [E].
    Returns:
        [E].
    """
    index = targets.expand(len(logits), -1)[..., None]
    own = logits.gather(-1, index)[..., 0] - margins[:, None]
    # Finite, so that a single class gives a zero loss with a zero gradient.
    others = logits.scatter(-1, index, torch.finfo(logits.dtype).min / 2).logsumexp(-1)
    return sample_mean(F.relu(others - own))
