"""Exit rules: how sure an exit must be for its answer to stand.

A rule scores the answer of each exit from what is known once that exit has answered, and a sample leaves at the first
exit whose score reaches the threshold. `step` is the only place where that is decided: stored outputs walk through it
(`decide`), and so does the executed model, which therefore agrees with them.

Shapes: E exits, B batch, N samples, C classes seen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.evaluation import Outputs

State = tuple[Tensor, ...]


class Answer(NamedTuple):
    """What an exit says of samples [B].

    Args:
        logits: [B, C]; −inf for classes that are ruled out.
        probabilities: their softmax [B, C].
        predictions: int64 [B].
        confidences: the largest probability [B]; NaN where the logits have one.
    """

    logits: Tensor
    probabilities: Tensor
    predictions: Tensor
    confidences: Tensor

    @staticmethod
    def of(logits: Tensor) -> "Answer":
        """The answer that logits [B, C] give."""
        probabilities = logits.softmax(-1)
        return Answer(logits, probabilities, logits.argmax(-1), probabilities.amax(-1))


# Log-probabilities that a learned scorer reads of each answer.
TOP = 5


@dataclass(frozen=True)
class ExitRule:
    """When an exit's answer stands. A subclass defines `score`.

    Args:
        threshold: the score to reach, one for all exits or one for each; at most the lowest score lets every sample
            leave at the first exit, above the highest none is ever sure.
        fallback: who answers where no exit is sure: `most_confident`, the exit with the highest probability of all,
            the shallower one in a tie (Szatkowski et al., 2025); or `last`. Such samples cost the whole network.
    """

    threshold: float | tuple[float, ...] = 0.9
    fallback: Literal["most_confident", "last"] = "most_confident"

    def __post_init__(self) -> None:
        given = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        if any(math.isnan(value) for value in given):
            raise ConfigurationError(f"the threshold of {type(self).__name__} is {self.threshold}; it must be a number")
        if self.fallback not in ("most_confident", "last"):
            raise ConfigurationError(f"fallback is '{self.fallback}'; it must be most_confident or last")

    def thresholds(self, exits: int) -> tuple[float, ...]:
        """The threshold of each exit [E].

        Raises:
            ConfigurationError: if there are thresholds for another number of exits.
        """
        if not isinstance(self.threshold, tuple):
            return (float(self.threshold),) * exits
        if len(self.threshold) != exits:
            given = f"{type(self).__name__} has {len(self.threshold)} thresholds"
            raise ConfigurationError(f"{given} for {exits} exits; give one for each")
        return self.threshold

    def on(self, device: torch.device) -> "ExitRule":
        """The same rule with what it has learned on `device`."""
        return self

    def score(self, index: int, answer: Answer, state: State) -> tuple[Tensor, State]:
        """The score [B] of exit `index`, and what the next exit must know of this one and those before.

        Args:
            answer: of the exit.
            state: what exit `index − 1` returned, each tensor [B, ...]; empty at the first exit.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Confidence(ExitRule):
    """The largest probability (Teerapittayanon et al., 2016; Kaya et al., 2019)."""

    def score(self, index, answer, state):
        return answer.confidences, ()


@dataclass(frozen=True)
class Entropy(ExitRule):
    """One minus the entropy relative to that of a uniform answer: 1 where a class is certain, 0 where all are alike."""

    def score(self, index, answer, state):
        return 1 - relative_entropy(answer.logits, answer.probabilities), ()


@dataclass(frozen=True)
class Margin(ExitRule):
    """The largest probability minus the second largest."""

    def score(self, index, answer, state):
        return margin(answer.probabilities), ()


@dataclass(frozen=True)
class Patience(ExitRule):
    """How many exits in a row agree, this one included (Zhou et al., 2020, whose patience p is a threshold p + 1)."""

    threshold: float | tuple[float, ...] = 2.0

    def score(self, index, answer, state):
        predictions = answer.predictions
        if not state:
            return torch.ones_like(predictions), (predictions, torch.ones_like(predictions))
        before, count = state
        count = torch.where(predictions == before, count + 1, 1)
        return count, (predictions, count)


@dataclass(frozen=True)
class LearnedScorer(ExitRule):
    """A logistic model of `exit_features` for each exit; `calibration.fit_scorer` fits it.

    Args:
        weights: [E, features + 1], the constant last.
    """

    weights: Tensor = field(default_factory=lambda: torch.empty(0, TOP + 4), compare=False)

    def thresholds(self, exits):
        if len(self.weights) != exits:
            raise ConfigurationError(f"LearnedScorer was fitted to {len(self.weights)} exits and is used with {exits}")
        return super().thresholds(exits)

    def on(self, device):
        return replace(self, weights=self.weights.to(device))

    def score(self, index, answer, state):
        features, state = exit_features(answer, state)
        weights = self.weights[index].to(features)
        return (features @ weights[:-1] + weights[-1]).sigmoid(), state


def exit_features(answer: Answer, state: State) -> tuple[Tensor, State]:
    """What a learned scorer sees of an exit's answer [B, TOP + 3], and its state.

    The TOP largest log-probabilities, relative entropy, margin, and whether the previous exit agrees (0 at the first).
    Log-probabilities are cut at −20, which also stands for classes that do not exist.
    """
    top = answer.logits.log_softmax(-1).topk(min(TOP, answer.logits.shape[-1])).values.clamp(min=-20)
    top = F.pad(top, (0, TOP - top.shape[-1]), value=-20.0)
    predictions = answer.predictions
    agrees = predictions == state[0] if state else torch.zeros_like(predictions)
    entropy = relative_entropy(answer.logits, answer.probabilities)
    rest = [entropy, margin(answer.probabilities), agrees.to(top.dtype)]
    return torch.cat([top, torch.stack(rest, -1)], -1), (predictions,)


def relative_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Entropy [B] as a share of its maximum over the classes that are not ruled out; 0 where only one is left."""
    choices = (logits != -torch.inf).sum(-1)
    # Rounding must not push it beyond 1, or a score below a threshold of 0.
    return (torch.special.entr(probabilities).sum(-1) / choices.clamp(min=2).log()).clamp(max=1)


def margin(probabilities: Tensor) -> Tensor:
    """The largest minus the second largest of [B, C]; the largest where C is 1."""
    top = probabilities.topk(min(2, probabilities.shape[-1])).values
    return top[..., 0] - top[..., 1] if top.shape[-1] == 2 else top[..., 0]


class Carried(NamedTuple):
    """What goes along with samples [B] that have not left.

    Args:
        state: of the rule.
        predictions: of each exit so far [B].
        confidences: their probabilities [B].
    """

    state: State = ()
    predictions: tuple[Tensor, ...] = ()
    confidences: tuple[Tensor, ...] = ()

    def select(self, samples: Tensor) -> "Carried":
        """The same of some samples, given by a mask or by indices."""
        state = tuple(each[samples] for each in self.state)
        answers = (torch.stack(each)[:, samples].unbind() for each in (self.predictions, self.confidences))
        return Carried(state, *answers)

    def fallback(self, rule: ExitRule) -> tuple[Tensor, Tensor, Tensor]:
        """The exit whose answer stands where none of the exits so far was sure, its answer, and its probability [B]."""
        predictions, confidences = torch.stack(self.predictions), torch.stack(self.confidences)
        if rule.fallback == "last":
            return torch.full_like(predictions[0], len(predictions) - 1), predictions[-1], confidences[-1]
        # The first of equals.
        highest, exits = confidences.max(0)
        return exits, predictions.gather(0, exits[None])[0], highest


class ExitStep(NamedTuple):
    """What becomes of samples [B] at an exit.

    Args:
        scores: of its answer [B].
        threshold: of the exit.
        answer: that answer.
        carried: what goes to the next exit.
    """

    scores: Tensor
    threshold: float
    answer: Answer
    carried: Carried

    @property
    def leaves(self) -> Tensor:
        """Whether the answer stands: bool [B]."""
        return self.scores.double() >= self.threshold


def step(rule: ExitRule, threshold: float, index: int, logits: Tensor, carried: Carried) -> ExitStep:
    """Exit `index` answers with logits [B, C] samples that come with `carried`, an empty one at the first exit."""
    answer = Answer.of(logits)
    scores, state = rule.score(index, answer, carried.state)
    predictions = (*carried.predictions, answer.predictions)
    confidences = (*carried.confidences, answer.confidences)
    return ExitStep(scores, threshold, answer, Carried(state, predictions, confidences))


def check_numbers(confidences: Tensor) -> None:
    """Raises a `UserError` if confidences, of any shape, hold a NaN, as they do where the logits do."""
    if count := int(confidences.isnan().sum()):
        raise UserError(f"{count} of {confidences.numel()} answers are not numbers; no exit rule can weigh them")


def walk(rule: ExitRule, logits: Tensor) -> Iterator[ExitStep]:
    """Every exit's step over all samples, of logits [E, N, C], as if none left."""
    carried = Carried()
    for index, (each, threshold) in enumerate(zip(logits, rule.thresholds(len(logits)), strict=True)):
        taken = step(rule, threshold, index, each, carried)
        check_numbers(taken.answer.confidences)
        carried = taken.carried
        yield taken


def scores(rule: ExitRule, outputs: Outputs) -> Tensor:
    """Every exit's score of every sample: float64 [E, N].

    Raises:
        UserError: if a logit is not a number.
    """
    return torch.stack([each.scores.double() for each in walk(replace(rule, threshold=0.0), outputs.logits)])


@dataclass(frozen=True)
class Decision:
    """What a rule makes of stored outputs.

    Args:
        exits: where each sample leaves; E where no exit is sure. int64 [N].
        answering: the exit whose answer is given [N].
        predictions: that answer [N].
        cost: of each sample, relative to the network without ACs: float64 [N].
    """

    exits: Tensor
    answering: Tensor
    predictions: Tensor
    cost: Tensor


def decide(rule: ExitRule, outputs: Outputs) -> Decision:
    """Where each sample leaves, and with what answer; `outputs.task_incremental` decides with the task known.

    Raises:
        UserError: if a logit is not a number, or the rule is for another number of exits.
    """
    steps = list(walk(rule, outputs.logits))
    leaves = torch.stack([each.leaves for each in steps])
    exits = (~leaves).cummin(0).values.sum(0)  # exits before the first that is sure
    standing, answers, _ = steps[-1].carried.fallback(rule)
    answering = torch.cat([torch.arange(len(steps))[:, None].expand(leaves.shape), standing[None]])
    predictions = torch.stack([*(each.answer.predictions for each in steps), answers])
    cost = torch.tensor([*outputs.cost.relative, outputs.cost.relative[-1]], dtype=torch.float64)
    return Decision(exits, answering.gather(0, exits[None])[0], predictions.gather(0, exits[None])[0], cost[exits])


def exit_of(rule: ExitRule, outputs: Outputs) -> Tensor:
    """Where each sample leaves: int64 [N], E where no exit is sure."""
    return decide(rule, outputs).exits
