"""Ways of running the network of a finished run: what it says, what each sample costs, and which way is the cheapest.

Shapes: E exits, N samples, K exit thresholds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from cl_ac.data.samples import Samples
from cl_ac.efficiency.dynamic import Recording, dynamic_ffns, recording, set_gate
from cl_ac.efficiency.flops import layer_cost, relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.exits.curves import Curve, cost_accuracy, quantile_thresholds
from cl_ac.exits.rules import Confidence, decide, scores
from cl_ac.network import ExitNetwork
from cl_ac.serving.finished import Finished
from cl_ac.serving.held_out import held_out_samples
from cl_ac.serving.paired_loss import loss_bound
from cl_ac.training import Trainer

# One gate for all dynamic FFNs, or one for each by its path.
Gates = Gate | Mapping[str, Gate]
# Exit thresholds of each tau that may be chosen.
EXIT_THRESHOLDS = 101


@dataclass(frozen=True)
class CostedAnswers:
    """What one way of running a network says of samples.

    Args:
        outputs: their cost is the mean over samples.
        costs: of each sample up to each exit, relative to the original network without ACs [E, N].
    """

    outputs: Outputs
    costs: Tensor

    @cached_property
    def curve(self) -> Curve:
        """Accuracy against cost as the exit threshold moves."""
        return cost_accuracy(self.outputs, costs=self.costs)

    def right(self, confidence: float = torch.inf) -> Tensor:
        """Which samples are answered correctly at an exit threshold; by default all pass all exits: bool [N]."""
        return decide(Confidence(confidence), self.outputs).predictions == self.outputs.targets

    def at(self, confidence: float) -> tuple[float, float]:
        """Accuracy and mean cost at an exit threshold."""
        thresholds = torch.tensor([confidence], dtype=torch.float64)
        curve = cost_accuracy(self.outputs, thresholds=thresholds, costs=self.costs)
        return curve.accuracy.item(), curve.cost.item()

    def risks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Exit thresholds, and at each the mean cost and the mean probability of wrong classes: float64 [K] each."""
        thresholds = quantile_thresholds(scores(Confidence(), self.outputs), EXIT_THRESHOLDS)
        targets = self.outputs.targets.expand(len(self.costs), -1)
        wrong = 1 - self.outputs.probabilities.gather(-1, targets[..., None])[..., 0].double()
        # The mean of what samples cost where they leave is the mean of anything that is known there.
        cost, risk = (
            cost_accuracy(self.outputs, thresholds=thresholds, costs=each).cost for each in (self.costs, wrong)
        )
        return thresholds, cost, risk


@dataclass(frozen=True)
class Point:
    """One way of running a network.

    Args:
        gate: its name among the others: the gate of all dynamic FFNs, or the one whose cost `gates` keeps to; None for
            a dense network.
        gates: of its dynamic FFNs.
        ffn_cost: of all FFNs, relative to the dense ones, where every test sample runs through the whole network.
        test: the test samples.
        held_out: held-out training samples, if the run held any out.
        training: samples that it was trained on, if choices are to be made.
    """

    gate: Gate | None
    gates: Gates | None
    ffn_cost: float
    test: CostedAnswers
    held_out: CostedAnswers | None
    training: CostedAnswers | None

    @property
    def whole(self) -> tuple[float, float]:
        """Mean cost, and accuracy of the final exit, where every test sample runs through the whole network."""
        return self.test.costs[-1].mean().item(), self.test.outputs.correct[-1].double().mean().item()

    @property
    def curve(self) -> Curve:
        """Accuracy against cost on the test samples as the exit threshold moves."""
        return self.test.curve

    @property
    def deciding(self) -> CostedAnswers:
        """The samples that choices are made on: held-out ones, if there are any.

        Training samples would not do, even those that the conversion left out: the original answers nearly all of them
        correctly, so that there is nothing to win (ViTs on digits, half of the training samples left out, tau 0.02: 0.5
        to 1.8 points lost on these, none on test samples).
        """
        return self.test if self.held_out is None else self.held_out


@dataclass(frozen=True)
class Choice:
    """A tau and an exit threshold, and what they lose against a reference where choices are made.

    Args:
        tau: threshold of the max rule.
        confidence: threshold of the exit rule.
        accuracy: on the test samples.
        cost: mean on the test samples, relative to the original network without ACs.
        samples: on which it was decided.
        lost: samples that only the reference answers correctly.
        won: samples that only this way of running answers correctly.
        bound: of the loss in accuracy, by `paired_loss.loss_bound`.
    """

    tau: float
    confidence: float
    accuracy: float
    cost: float
    samples: int
    lost: int
    won: int
    bound: float

    @staticmethod
    def of(point: Point, confidence: float, reference: Tensor) -> "Choice":
        """How `point` does with an exit threshold; `reference` says which deciding samples it should answer [N]."""
        right = point.deciding.right(confidence)
        lost, won, samples = int((reference & ~right).sum()), int((right & ~reference).sum()), len(right)
        bound = loss_bound(lost, won, samples)
        return Choice(point.gate.threshold, confidence, *point.test.at(confidence), samples, lost, won, bound)

    @staticmethod
    def patient(point: Point) -> "Choice":
        """`point` where all samples pass all exits, chosen without a test."""
        confidence = point.test.curve.thresholds[-1].item()
        return Choice(point.gate.threshold, confidence, *point.test.at(confidence), 0, 0, 0, 0.0)


@dataclass(frozen=True)
class Chosen:
    """What became of a choice.

    Args:
        choice: None if nothing is within the tolerance.
        refused: the next cheaper one, which is not; None if the choice is the cheapest of all.
    """

    choice: Choice | None
    refused: Choice | None


def chosen(points: Sequence[Point], reference: Tensor, tolerance: float) -> Chosen:
    """The cheapest tau and exit threshold of which the deciding samples show that it loses at most `tolerance`.

    Candidates are tested one after the other, from dear to cheap, up to the first whose bound is above the tolerance
    (fixed-sequence testing). Their order comes from other samples, so that trying many does not make the level wrong:
    the probability of a choice that loses more is at most that of a single bound. Pareto testing (Laufer-Goldshtein et
    al., ICLR 2023, arXiv 2210.07913), an instance of Learn then Test (Angelopoulos et al., 2021, arXiv 2110.01052).

    Args:
        points: of gates with the max rule.
        reference: whether the reference answers each deciding sample correctly, bool [N].
        tolerance: accuracy, in [0, 1].
    """
    choice = None
    for point, confidence in frontier(points):
        tried = Choice.of(point, confidence, reference)
        if tried.bound > tolerance:
            return Chosen(choice, tried)
        choice = tried
    return Chosen(choice, None)


def frontier(points: Sequence[Point]) -> Iterator[tuple[Point, float]]:
    """Points and exit thresholds than which none is both cheaper and surer on training samples, the dearest first.

    Surer means that wrong classes are less probable; the answers themselves are nearly all right on these samples.
    """
    candidates = []
    for place, point in enumerate(points):
        columns = (each.tolist() for each in point.training.risks())
        candidates += [(risk, cost, place, confidence) for confidence, cost, risk in zip(*columns, strict=True)]
    least = torch.inf
    for _, cost, place, confidence in sorted(candidates):
        if cost < least:
            least = cost
            yield points[place], confidence


def swept(
    network: ExitNetwork,
    gates: Mapping[Gate, Gates],
    at: Callable[[ExitNetwork], Point],
    done: Callable[[int, int], None],
) -> list[Point]:
    """The network with each of the gates, by their names; the last stay."""
    points = []
    for index, (name, each) in enumerate(gates.items()):
        set_gate(network, each)
        points.append(replace(at(network), gate=name, gates=each))
        done(index + 1, len(gates))
    return points


def evaluated(
    run: Finished, trainer: Trainer, base: ExitCosts, network: ExitNetwork, training: Samples | None = None
) -> Point:
    """What `network` says and costs, in place of the run's own.

    Args:
        base: cost of the run's own network.
        training: samples to order choices by.
    """

    def answers(samples: Samples) -> tuple[CostedAnswers, float]:
        with recording(network) as recordings:
            logits = trainer.predict(network, samples, partial(run.objects.approach.answer, network))
        costs = sample_costs(network, recordings, base, len(samples))
        mean = ExitCosts((costs.mean(1) * base.plain).tolist(), base.plain)
        targets = samples.targets.cpu()  # exemplars are on the training device
        tasks = torch.bucketize(targets, torch.tensor(network.sizes).cumsum(0), right=True)
        outputs = Outputs(logits, targets, tasks, tuple(network.sizes), mean)
        return CostedAnswers(outputs, costs), relative_ffn_cost(network, recordings)

    test, ffn_cost = answers(run.objects.benchmark.seen(run.last_task)[0])
    held_out = held_out_samples(run)
    others = (None if samples is None else answers(samples)[0] for samples in (held_out and held_out[0], training))
    return Point(None, None, ffn_cost, test, *others)


def sample_costs(network: ExitNetwork, recordings: Mapping[str, Recording], base: ExitCosts, samples: int) -> Tensor:
    """Cost of each sample up to each exit, relative to `base.plain`: float64 [E, N].

    Args:
        base: cost of the dense network.
    """
    costs = torch.tensor(base.exits, dtype=torch.float64)[:, None].repeat(1, samples)
    for name, ffn in dynamic_ffns(network).items():
        cost = layer_cost(ffn)
        counts = torch.cat(recordings[name].counts).reshape(samples, -1).double().cpu()  # [N, tokens]
        stage = int(name.removeprefix("backbone.stages.").partition(".")[0])
        first = next(index for index, (_, end) in enumerate(network.bounds) if stage < end)
        costs[first:] += (cost.of(counts) - cost.dense).sum(1)
    return costs / base.plain
