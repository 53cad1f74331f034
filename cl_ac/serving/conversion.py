"""A finished run's transformer as dynamic-k experts: made sparse, converted, swept, and compared with MoEfication."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal, get_args

import torch
from torch import Tensor

from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.data.samples import Samples, concatenate
from cl_ac.efficiency.allocation import allocate_thresholds, within
from cl_ac.efficiency.budget import tau_for_budget
from cl_ac.efficiency.convert import Conversion, check_sizes, convert, moefication
from cl_ac.efficiency.dynamic import dynamic_ffns, recording, set_gate
from cl_ac.efficiency.expert_usage import ExpertUsage, expert_usage, neuron_sparsity
from cl_ac.efficiency.finetune import SparseTuning, finetuned
from cl_ac.efficiency.flops import relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.sparsify import Counts, Sparsify
from cl_ac.errors import ConfigurationError
from cl_ac.exits.cost import exit_costs
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.network import ExitNetwork
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.finished import Finished, finished
from cl_ac.serving.held_out import held_out_samples
from cl_ac.serving.operating_points import Choice, Chosen, Gates, Point, chosen, evaluated, swept
from cl_ac.training import EpochReport, Trainer

Data = Literal["all", "last", "memory"]
AllocationKind = Literal["shared", "layer"]
# Called with a phase, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]
TAUS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
# Shares of the experts that MoEfication runs.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
# Test images on which the experts' work is drawn.
SHOWN = 6
# Batches of training images on which thresholds are spread over layers.
ALLOCATED_ON = 4
# Training images on which choices are put in order.
ORDERED_ON = 2000


@dataclass(frozen=True)
class Settings:
    """What `cl-ac convert` does with a run.

    Args:
        data: on which it trains and calibrates: training data of `all` tasks or the `last`, or the exemplars in
            `memory`.
        taus: thresholds of the max rule to sweep, in (0, 1].
        allocation: whether all feed-forward networks have tau itself for their threshold (`shared`), or each `layer`
            its own at the same cost together, raised greedily where the network's output changes least; up to half
            a point more accurate on digits, for 15 L² passes over 256 images with L layers.
        tolerance: how much accuracy, in (0, 1), the saved model may lose against the original: a bound with 95 %
            confidence from samples that the run held out (from test samples if it held none out), of which 0.01 takes
            at least 268; with a budget, how much its early exits may lose against its whole network.
        budget: cost of the feed-forward networks, relative to the dense ones, that the saved model keeps to; its
            tau is found on held-out training samples, or on `data` if the run held none out.
        baseline: whether MoEfication is converted and swept beside.
    """

    data: Data = "all"
    taus: tuple[float, ...] = TAUS
    allocation: AllocationKind = "shared"
    tolerance: float = 0.01
    budget: float | None = None
    baseline: bool = True

    def __post_init__(self) -> None:
        if not self.taus or not all(0 < tau <= 1 for tau in self.taus):
            raise ConfigurationError(f"taus is {list(self.taus)}; give thresholds above 0 and at most 1")
        if self.allocation not in get_args(AllocationKind):
            raise ConfigurationError(f"allocation is '{self.allocation}'; it must be shared or layer")
        if not 0 < self.tolerance < 1:
            raise ConfigurationError(f"tolerance is {self.tolerance:g}; it must be above 0 and below 1")
        if self.budget is not None and self.budget <= 0:
            raise ConfigurationError(f"budget is {self.budget:g}; it must be above 0")


@dataclass(frozen=True)
class Converted:
    """A converted run.

    Args:
        run: the finished run.
        dynamic: its network after fine-tuning, with dynamic FFNs.
        original: the run's own network.
        dense: the network after fine-tuning, still dense.
        points: `dynamic`, for each tau.
        baseline: MoEfication, for each number of experts.
        chosen: what to save, if anything is within the tolerance.
        settings: of the choice and the sweep.
        usage: of the experts, at the chosen tau (the smallest if there is none).
        sparsity: of each FFN's neurons after fine-tuning.
    """

    run: Finished
    dynamic: ExitNetwork
    original: Point
    dense: Point
    points: list[Point]
    baseline: list[Point]
    chosen: Chosen
    settings: Settings
    usage: ExpertUsage
    sparsity: dict[str, Counts]

    @property
    def choice(self) -> Choice | None:
        """What to save, if there is anything."""
        return self.chosen.choice

    @property
    def chosen_gates(self) -> Gates:
        """The gates of the choice, which there must be."""
        chosen = self.choice
        if chosen is None:
            raise ValueError("nothing was chosen, so there are no gates of the choice")
        return next(point.gates for point in self.points if point.gates and point.gate.threshold == chosen.tau)


@dataclass(frozen=True)
class Batches:
    """Batches of images that can be gone through again and again."""

    trainer: Trainer
    samples: Samples

    def __iter__(self) -> Iterator[Tensor]:
        return self.trainer.loader(self.samples).in_order(64)


def convert_run(
    directory: RunDirectory,
    settings: Settings = Settings(),
    conversion: Conversion = Conversion(),
    finetune: SparseTuning = SparseTuning(),
    sparsify: Sparsify = Sparsify("hoyer"),
    device: str = "auto",
    progress: Progress = lambda phase, done, total: None,
) -> Converted:
    """Makes the network of a finished run sparse, converts it, and sweeps its gates.

    Raises:
        UserError: if the run is not finished, has no transformer, its approach cannot exit early, there are no data, or
            no threshold keeps to the budget.
    """
    run, seed = finished(directory, device), directory.config["seed"]
    check(run, directory, conversion)
    trainer = run.trainer
    data = training_data(run, settings.data)

    def trained(report: EpochReport) -> None:
        progress("fine-tuning", report.epoch + 1, report.epochs)

    sparse = finetuned(run.network, run.objects.approach, data, run.last_task, trainer, finetune, sparsify, trained)
    order = torch.randperm(len(data), generator=trainer.generator("conversion"))
    inputs = Batches(trainer, data.select(order))
    dynamic = convert(sparse, inputs, conversion, seed, on_layer=partial(progress, "converting to D2DMoE"))
    kept = None
    if settings.budget is not None:
        kept = tau_for_budget(dynamic, held_out_images(run, trainer) or inputs, settings.budget)
    names = [Gate("max", tau) for tau in sorted({*settings.taus, *([] if kept is None else [kept])})]
    gates: dict[Gate, Gates] = {name: name for name in names}
    if settings.allocation == "layer":
        some = list(islice(inputs, ALLOCATED_ON))
        gates = allocated(dynamic, some, names, partial(progress, "allocating thresholds"))

    at = partial(evaluated, run, trainer, exit_costs(run.network, run.objects.approach.inference))
    original, dense = at(run.network), at(sparse)
    ordered = partial(at, training=data.select(order[:ORDERED_ON]))
    points = swept(dynamic, gates, ordered, partial(progress, "sweeping D2DMoE"))
    baseline = moefied(sparse, inputs, conversion, seed, at, progress) if settings.baseline else []
    decision = choose(original, points, settings.tolerance, kept)
    picked = next(iter(gates)) if decision.choice is None else Gate("max", decision.choice.tau)
    set_gate(dynamic, gates[picked])
    calibration = next(iter(inputs))
    usage = expert_usage(dynamic, calibration, some_images(run, trainer))
    sparsity = neuron_sparsity(sparse, calibration)
    return Converted(run, dynamic, original, dense, points, baseline, decision, settings, usage, sparsity)


def check(run: Finished, directory: RunDirectory, conversion: Conversion) -> None:
    """Refuses, before any training, what could not be converted or saved in the end.

    Raises:
        ConfigurationError: the reason.
    """
    EarlyExitModel(run.network, run.objects.approach, Confidence())
    found = find_feed_forwards(run.network)
    if not found:
        name = type(run.objects.backbone).__name__
        raise ConfigurationError(f"the backbone {name} of '{directory.path}' has no feed-forward network to convert")
    check_sizes(found.values(), conversion)


def training_data(run: Finished, which: Data) -> Samples:
    """The training data that a conversion may use.

    Raises:
        ConfigurationError: if there are none.
    """
    if which == "memory":
        samples = run.objects.approach.memory.samples
        if not len(samples):
            raise ConfigurationError("data is 'memory', but the run kept no exemplars; choose all or last")
        return samples.without_extras()
    return run.last_task.train if which == "last" else concatenate(*(task.train for task in run.last_task.history()))


def held_out_images(run: Finished, trainer: Trainer) -> Batches | None:
    """The held-out training samples of a run, if there are any."""
    held_out = held_out_samples(run)
    return None if held_out is None else Batches(trainer, held_out[0])


def moefied(
    sparse: ExitNetwork,
    inputs: Batches,
    conversion: Conversion,
    seed: int,
    at: Callable[[ExitNetwork], Point],
    progress: Progress,
) -> list[Point]:
    """The same network converted by MoEfication, with `SHARES` of its experts."""
    settings = moefication(conversion.size, conversion.tokens)
    network = convert(sparse, inputs, settings, seed, on_layer=partial(progress, "converting to MoEfication"))
    experts = max(ffn.experts.up.shape[0] for ffn in dynamic_ffns(network).values())
    gates = [Gate("top_k", count) for count in sorted({max(1, round(share * experts)) for share in SHARES})]
    return swept(network, {gate: gate for gate in gates}, at, partial(progress, "sweeping MoEfication"))


def allocated(
    network: ExitNetwork, batches: Sequence[Tensor], names: Sequence[Gate], done: Callable[[int, int], None]
) -> dict[Gate, Gates]:
    """For each gate those of single layers that cost no more on `batches`, and change the output least."""
    costs = {}
    for name in names:
        set_gate(network, name)
        with recording(network) as recordings, torch.no_grad():
            for batch in batches:
                network(batch)
        costs[name] = relative_ffn_cost(network, recordings)
    path = allocate_thresholds(network, batches, min(costs.values()), done)
    return {name: within(path, cost).gates for name, cost in costs.items()}


def choose(original: Point, points: Sequence[Point], tolerance: float, kept: float | None) -> Chosen:
    """The cheapest within `tolerance`: of all taus, against the original; of the one that keeps to a budget alone,
    against that one without early exits."""
    if kept is None:
        return chosen(points, original.deciding.right(), tolerance)
    (within_budget,) = (point for point in points if point.gate.threshold == kept)
    found = chosen([within_budget], within_budget.deciding.right(), tolerance)
    # Without early exits it is the reference, which needs no test.
    return replace(found, choice=found.choice or Choice.patient(within_budget))


def some_images(run: Finished, trainer: Trainer) -> Tensor:
    """Test images of all tasks, evenly spread [images, channels, height, width]."""
    test, _ = run.objects.benchmark.seen(run.last_task)
    places = torch.linspace(0, len(test) - 1, min(SHOWN, len(test))).long()
    return next(trainer.loader(test.select(places)).in_order(SHOWN))
