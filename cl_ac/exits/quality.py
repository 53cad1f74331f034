"""What makes exits good or bad: do scores tell whom to let go, are confidences honest, and what does depth repair?

Pure functions of `Outputs`. What is undefined, such as an AUROC where all labels agree, is None and never a number.
Shapes: E exits, N samples, C classes seen, T tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.evaluation import Outputs
from cl_ac.exits.rules import Confidence, ExitRule, scores


def auroc(values: Tensor, labels: Tensor) -> float | None:
    """Probability that a positive scores higher than a negative, ties counted half; None if either is missing.

    Args:
        values: scores [N].
        labels: bool [N].
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[places].double()  # from 1, the middle one of ties
    return ((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives)).item()


def leaving_is_right(correct: Tensor) -> Tensor:
    """Whether a sample should leave at each exit: the exit is right, or no deeper one is. bool [E, N] of [E, N]."""
    right_from_here = correct.flip(0).cummax(0).values.flip(0)
    deeper = torch.cat([right_from_here[1:], torch.zeros_like(correct[:1])])
    return correct | ~deeper


def eefp(outputs: Outputs, rule: ExitRule = Confidence()) -> list[float | None]:
    """Early-exit failure prediction of each exit: AUROC of its scores for `leaving_is_right` [E].

    It ranks within one exit, so it cannot see thresholds that do not fit together over exits. Always None at the last
    exit, where leaving is right for all samples ("Rethinking Calibration for Early-Exit Neural Networks", 2026).
    """
    pairs = zip(scores(rule, outputs), leaving_is_right(outputs.correct), strict=True)
    return [auroc(values, labels) for values, labels in pairs]


def failure_prediction(outputs: Outputs, rule: ExitRule = Confidence()) -> list[float | None]:
    """AUROC of each exit's scores for its being right [E]."""
    pairs = zip(scores(rule, outputs), outputs.correct, strict=True)
    return [auroc(values, labels) for values, labels in pairs]


def mean_defined(values: Sequence[float | None]) -> float | None:
    """Mean of what is defined; None if nothing is."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: bins of equal width in (0, 1], the first with 0 as well.

    Args:
        confidence: mean confidence in each bin [bins]; NaN where empty.
        accuracy: share of right answers in each bin [bins]; NaN where empty.
        share: of the samples that are in each bin [bins].
    """

    confidence: Tensor
    accuracy: Tensor
    share: Tensor

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al., 2017): `Σ share · |accuracy − confidence|`."""
        return (self.share * (self.accuracy - self.confidence).abs().nan_to_num()).sum().item()


def reliability(confidences: Tensor, correct: Tensor, bins: int = 15) -> Reliability:
    """The reliability diagram of one exit, of confidences [N] in [0, 1] and whether it is right [N]."""
    confidences = confidences.double()
    places = (confidences * bins).ceil().long().clamp(1, bins) - 1
    count, sure, right = torch.zeros(3, bins, dtype=torch.float64).index_add_(
        1, places, torch.stack([torch.ones_like(confidences), confidences, correct.double()])
    )
    return Reliability(sure / count, right / count, count / len(confidences))


def calibration_errors(outputs: Outputs, bins: int = 15) -> list[float]:
    """Expected calibration error of each exit [E]."""
    pairs = zip(outputs.confidences, outputs.correct, strict=True)
    return [reliability(confidences, correct, bins).error for confidences, correct in pairs]


def brier(outputs: Outputs) -> list[float]:
    """Brier score of each exit [E]: mean over samples of `Σ_c (p_c − [c = y])²`, from 0 (best) to 2."""
    truth = F.one_hot(outputs.targets, outputs.logits.shape[-1]).double()
    return (outputs.probabilities.double() - truth).square().sum(-1).mean(-1).tolist()


@dataclass(frozen=True)
class Overthinking:
    """What earlier exits knew and the final one lost.

    Args:
        share: P(some exit is right) − P(the final one is).
        relative: the same as a share of the final accuracy; None where that is 0.
        per_exit: of the samples that only ACs get right, the share that each AC does [E − 1]; None without any.
        unique: of the same samples, the share that this AC alone gets right [E − 1].
    """

    share: float
    relative: float | None
    per_exit: list[float | None]
    unique: list[float | None]


def overthinking(correct: Tensor) -> Overthinking:
    """How much the network overthinks (Kaya et al., 2019), of correctness [E, N]."""
    final, earlier = correct[-1], correct[:-1]
    lost = earlier.any(0) & ~final
    accuracy, share = final.double().mean().item(), lost.double().mean().item()
    right = earlier[:, lost]
    alone = right & (right.sum(0) == 1)
    return Overthinking(share, share / accuracy if accuracy else None, _shares(right), _shares(alone))


def _shares(rows: Tensor) -> list[float | None]:
    return rows.double().mean(1).tolist() if rows.shape[1] else [None] * len(rows)


def hindsight_improvability(correct: Tensor) -> list[float | None]:
    """Share of each exit's errors that some earlier exit gets right (Wołczyk et al., 2021) [E], of [E, N].

    None at the first exit, and where there are no errors.
    """
    result: list[float | None] = [None]
    for index in range(1, len(correct)):
        wrong = ~correct[index]
        share = (correct[:index].any(0) & wrong).sum() / wrong.sum()
        result.append(share.item() if wrong.any() else None)
    return result


def error_repair(correct: Tensor) -> Tensor:
    """Share of exit i's errors that exit j gets right: float64 [E, E], of [E, N]; NaN where i makes no errors."""
    wrong, right = (~correct).double(), correct.double()
    return (wrong @ right.T) / wrong.sum(1, keepdim=True)


def groups(outputs: Outputs) -> dict[str, Outputs]:
    """The outputs of all samples, of those of each task, and of old and new classes where there are old ones."""
    last = len(outputs.sizes) - 1
    found = {"all": outputs}
    if last:
        found |= {f"task_{task}": outputs.select(outputs.tasks == task) for task in range(last + 1)}
        found |= {"old": outputs.select(outputs.tasks < last), "new": outputs.select(outputs.tasks == last)}
    return found


@dataclass(frozen=True)
class Quality:
    """All that this file measures, of some samples; lists have one entry for each exit.

    Args:
        accuracy: of each exit.
        eefp: early-exit failure prediction, and its mean over the exits where it is defined.
        failure_prediction: AUROC for being right.
        ece: expected calibration error with 15 bins.
        brier: Brier score.
        overthinking: over all exits.
        hindsight: hindsight improvability.
        repair: `error_repair` [E][E].
    """

    accuracy: list[float]
    eefp: list[float | None]
    mean_eefp: float | None
    failure_prediction: list[float | None]
    ece: list[float]
    brier: list[float]
    overthinking: Overthinking
    hindsight: list[float | None]
    repair: list[list[float]]


def quality(outputs: Outputs, rule: ExitRule = Confidence()) -> Quality:
    """The quality of the exits of `outputs`, with the scores of `rule` where scores are asked for."""
    ranking = eefp(outputs, rule)
    return Quality(
        outputs.correct.double().mean(1).tolist(),
        ranking,
        mean_defined(ranking),
        failure_prediction(outputs, rule),
        calibration_errors(outputs),
        brier(outputs),
        overthinking(outputs.correct),
        hindsight_improvability(outputs.correct),
        error_repair(outputs.correct).tolist(),
    )
