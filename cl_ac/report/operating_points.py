"""Ways of running the network of a finished run: what it says, what each sample costs, and which way is the cheapest.

Shapes: E exits, N samples, K exit thresholds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from cl_ac.early_exit import Curve, cost_accuracy
from cl_ac.efficiency.dynamic import Recording, dynamic_ffns, recording, set_gate
from cl_ac.efficiency.flops import layer_cost, relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.evaluation import Outputs
from cl_ac.network import Cost, ExitNetwork
from cl_ac.report.held_out import held_out_outputs
from cl_ac.serving import Finished
from cl_ac.training import Trainer


@dataclass(frozen=True)
class Point:
    """One way of running a network.

    Args:
        gate: of its dynamic FFNs; None for a dense network.
        outputs: on the test samples; their cost is the mean over samples.
        costs: of each test sample up to each exit, relative to the original network without ACs [E, N].
        ffn_cost: of all FFNs, relative to the dense ones, where every test sample runs through the whole network.
        held_out: accuracy against cost on held-out training samples, if the run held any out.
    """

    gate: Gate | None
    outputs: Outputs
    costs: Tensor
    ffn_cost: float
    held_out: Curve | None

    @property
    def whole(self) -> tuple[float, float]:
        """Mean cost, and accuracy of the final exit, where every test sample runs through the whole network."""
        return self.costs[-1].mean().item(), self.outputs.correct[-1].double().mean().item()

    @cached_property
    def curve(self) -> Curve:
        """Accuracy against cost on the test samples as the exit threshold moves."""
        return cost_accuracy(self.outputs, costs=self.costs)

    @property
    def selection(self) -> Curve:
        """The curve that choices are made on: of held-out samples, if there are any."""
        return self.curve if self.held_out is None else self.held_out

    @property
    def patient_accuracy(self) -> float:
        """Accuracy, where choices are made, of samples that pass all exits: that of the most confident one."""
        return self.selection.accuracy[-1].item()


@dataclass(frozen=True)
class Choice:
    """The cheapest way that is accurate enough.

    Args:
        tau: threshold of the max rule.
        confidence: threshold of the exit rule.
        accuracy: on the test samples.
        cost: mean on the test samples, relative to the original network without ACs.
    """

    tau: float
    confidence: float
    accuracy: float
    cost: float


def chosen(points: Sequence[Point], accuracy: float) -> Choice | None:
    """The tau and exit threshold of least cost with at least `accuracy` where choices are made; None if there is none.

    Args:
        points: of gates with the max rule.
    """
    best, least = None, torch.inf
    for point in points:
        curve = point.selection
        cost = curve.cost.where(curve.accuracy >= accuracy - 1e-9, torch.inf)
        if cost.min() < least:
            least, threshold = cost.min(), curve.thresholds[cost.argmin()]
            tested = cost_accuracy(point.outputs, thresholds=threshold[None], costs=point.costs)
            best = Choice(point.gate.threshold, threshold.item(), tested.accuracy.item(), tested.cost.item())
    return best


def swept(
    network: ExitNetwork, gates: Sequence[Gate], at: Callable[[ExitNetwork], Point], done: Callable[[int, int], None]
) -> list[Point]:
    """The network at each gate; the last stays."""
    points = []
    for index, gate in enumerate(gates):
        set_gate(network, gate)
        points.append(replace(at(network), gate=gate))
        done(index + 1, len(gates))
    return points


def evaluated(run: Finished, trainer: Trainer, base: Cost, network: ExitNetwork) -> Point:
    """What `network` says and costs, in place of the run's own.

    Args:
        base: cost of the run's own network.
    """
    curve = None
    with recording(network) as recordings:
        held_out = held_out_outputs(replace(run, network=network), trainer, base)
    if held_out is not None:
        curve = cost_accuracy(held_out, costs=sample_costs(network, recordings, base, len(held_out.targets)))
    samples, tasks = run.objects.benchmark.seen(run.last_task)
    with recording(network) as recordings:
        logits = trainer.predict(network, samples, partial(run.objects.approach.answer, network))
    costs = sample_costs(network, recordings, base, len(samples))
    mean = Cost((costs.mean(1) * base.plain).tolist(), base.plain)
    outputs = Outputs(logits, samples.targets, tasks, tuple(network.sizes), mean)
    return Point(None, outputs, costs, relative_ffn_cost(network, recordings), curve)


def sample_costs(network: ExitNetwork, recordings: Mapping[str, Recording], base: Cost, samples: int) -> Tensor:
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
