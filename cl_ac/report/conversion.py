"""A finished run's transformer as dynamic-k experts: converted, swept, compared with MoEfication, and written down.

Shapes: E exits, N samples.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from torch import Tensor, nn

from cl_ac.checkpoint import write_atomically
from cl_ac.early_exit import Curve, cost_accuracy
from cl_ac.early_exit_model import EarlyExitModel, plain_model
from cl_ac.efficiency.convert import Conversion, convert, moefication
from cl_ac.efficiency.dynamic import Recording, dynamic_ffns, measure_usage, recording, set_gate
from cl_ac.efficiency.feed_forward import find_feed_forwards
from cl_ac.efficiency.finetune import FineTuning, finetuned
from cl_ac.efficiency.flops import layer_cost, relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.sparsify import Counts, Sparsify, count_sparsity
from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import Outputs
from cl_ac.exit_rules import Confidence
from cl_ac.network import Cost, ExitNetwork
from cl_ac.report.conversion_figures import cost_figure, load_figure, map_figure
from cl_ac.report.exit_timing import BATCHES, interleaved_medians
from cl_ac.report.held_out import held_out_outputs
from cl_ac.report.tables import percent
from cl_ac.rundir import RunDirectory, provenance
from cl_ac.samples import Samples, concatenate
from cl_ac.serving import Finished, finished, save
from cl_ac.training import EpochReport, Trainer

Data = Literal["all", "last", "memory"]
Progress = Callable[[str, int, int], None]
# Seconds relative to the original network without ACs, by batch size and way of running it.
Measured = Mapping[int, Mapping[str, float]]
NOT_MEASURED: Measured = MappingProxyType({})
TAUS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
# Shares of the experts that MoEfication runs.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
# Test images on which the work per token is drawn.
SHOWN = 6


@dataclass(frozen=True)
class Settings:
    """What `cl-ac convert` does with a run.

    Args:
        data: on which it trains and calibrates: training data of `all` tasks or the `last`, or the exemplars in
            `memory`.
        taus: thresholds of the max rule to sweep, in (0, 1].
        tolerance: how much accuracy, in [0, 1], the saved model may lose.
        baseline: whether MoEfication is converted and swept beside.
    """

    data: Data = "all"
    taus: tuple[float, ...] = TAUS
    tolerance: float = 0.01
    baseline: bool = True

    def __post_init__(self) -> None:
        if not self.taus or not all(0 < tau <= 1 for tau in self.taus):
            raise ConfigurationError(f"taus is {list(self.taus)}; give thresholds above 0 and at most 1")
        if not 0 <= self.tolerance < 1:
            raise ConfigurationError(f"tolerance is {self.tolerance:g}; it must be at least 0 and below 1")


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
    def accuracy(self) -> float:
        """Of the final exit."""
        return self.outputs.correct[-1].double().mean().item()

    @property
    def whole(self) -> tuple[float, float]:
        """Mean cost and accuracy where every sample runs through the whole network."""
        return self.costs[-1].mean().item(), self.accuracy

    @cached_property
    def curve(self) -> Curve:
        """Accuracy against cost on the test samples as the exit threshold moves."""
        return cost_accuracy(self.outputs, costs=self.costs)

    @property
    def selection(self) -> Curve:
        """The curve that choices are made on: of held-out samples, if there are any."""
        return self.curve if self.held_out is None else self.held_out


@dataclass(frozen=True)
class Choice:
    """The cheapest way to run the converted network within the tolerance.

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


@dataclass(frozen=True)
class Converted:
    """A converted run.

    Args:
        run: the finished run.
        sparse: its network after fine-tuning, still dense.
        dynamic: that network with dynamic FFNs.
        counts: how sparse each FFN of `sparse` is.
        original: the run's own network.
        dense: `sparse`.
        points: `dynamic`, for each tau.
        baseline: MoEfication, for each number of experts.
        choice: None if no tau is within the tolerance.
        load: share of tokens that ask for each expert, by FFN, at the chosen tau (the smallest if there is none).
        images: the first test images [images, channels, height, width].
        counts_of_tokens: experts executed for each of their tokens, summed over FFNs [images, tokens].
    """

    run: Finished
    sparse: ExitNetwork
    dynamic: ExitNetwork
    counts: dict[str, Counts]
    original: Point
    dense: Point
    points: list[Point]
    baseline: list[Point]
    choice: Choice | None
    load: dict[str, Tensor]
    images: Tensor
    counts_of_tokens: Tensor


@dataclass(frozen=True)
class Batches:
    """Batches that can be gone through again and again."""

    make: Callable[[], Iterator[Tensor]]

    def __iter__(self) -> Iterator[Tensor]:
        return self.make()


def convert_run(
    directory: RunDirectory,
    settings: Settings = Settings(),
    conversion: Conversion = Conversion(),
    finetune: FineTuning = FineTuning(),
    sparsify: Sparsify = Sparsify("hoyer"),
    device: str = "auto",
    progress: Progress = lambda phase, done, total: None,
) -> Converted:
    """Makes the network of a finished run sparse, converts it, and sweeps its gates.

    Args:
        progress: called with a phase and how much of it is done.

    Raises:
        UserError: if the run is not finished, has no transformer, its approach cannot exit early, or there are no data.
    """
    run = finished(directory, device)
    approach, network, seed = run.objects.approach, run.network, directory.config["seed"]
    # What could not be saved in the end is refused now.
    EarlyExitModel(network, approach, Confidence())
    if not find_feed_forwards(network):
        name = type(run.objects.backbone).__name__
        raise ConfigurationError(f"the backbone {name} of '{directory.path}' has no feed-forward network to convert")
    trainer = Trainer(run.objects.training, run.objects.benchmark.augmentation, run.device, seed)
    data, task = training_data(run, settings.data), run.objects.benchmark[len(network.sizes) - 1]

    def trained(report: EpochReport) -> None:
        progress("fine-tuning", report.epoch + 1, report.epochs)

    sparse = finetuned(network, approach, data, task, trainer, finetune, sparsify, trained)
    order = torch.randperm(len(data), generator=trainer.generator("conversion"))
    inputs = Batches(partial(trainer.loader(data.select(order)).in_order, 64))
    dynamic = convert(sparse, inputs, conversion, seed, on_layer=partial(progress, "converting to D2DMoE"))

    at = partial(evaluated, run, trainer, network.cost())
    gates = [Gate("max", tau) for tau in sorted(settings.taus)]
    points = swept(dynamic, gates, at, partial(progress, "sweeping D2DMoE"))
    baseline = []
    if settings.baseline:
        other = moefication(conversion.size, conversion.tokens)
        competitor = convert(sparse, inputs, other, seed, on_layer=partial(progress, "converting to MoEfication"))
        experts = max(len(ffn.up) for ffn in dynamic_ffns(competitor).values())
        gates = [Gate("top_k", k) for k in sorted({max(1, round(share * experts)) for share in SHARES})]
        baseline = swept(competitor, gates, at, partial(progress, "sweeping MoEfication"))

    original, dense = at(network), at(sparse)
    choice = chosen(original, points, settings.tolerance)
    set_gate(dynamic, points[0].gate if choice is None else Gate("max", choice.tau))
    test, _ = run.objects.benchmark.seen(task)
    first = torch.linspace(0, len(test) - 1, min(SHOWN, len(test))).long()
    images = next(trainer.loader(test.select(first)).in_order(SHOWN))
    batch = next(iter(inputs))
    load, tokens = expert_load(dynamic, batch), tokens_executed(dynamic, images)
    counts = sparsity(sparse, batch)
    return Converted(
        run, sparse, dynamic, counts, original, dense, points, baseline, choice, load, images.cpu(), tokens
    )


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """Shows phases as bars in a terminal, and as a line when each is done elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    rows: dict[str, TaskID] = {}
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def advance(phase: str, done: int, total: int) -> None:
            if phase not in rows:
                rows[phase] = bars.add_task(phase, total=total)
            bars.update(rows[phase], completed=done)
            if done == total and not console.is_terminal:
                console.print(f"{phase}: done", highlight=False)

        yield advance


def training_data(run: Finished, which: Data) -> Samples:
    """The training data that a conversion may use.

    Raises:
        ConfigurationError: if there are none.
    """
    tasks = run.objects.benchmark.tasks[: len(run.network.sizes)]
    if which == "memory":
        samples = run.objects.approach.memory.samples
        if not len(samples):
            raise ConfigurationError("data is 'memory', but the run kept no exemplars; choose all or last")
        return samples.without_extras()
    return tasks[-1].train if which == "last" else concatenate(*(task.train for task in tasks))


def swept(
    network: ExitNetwork, gates: Sequence[Gate], at: Callable[[ExitNetwork], Point], done: Callable[[int, int], None]
) -> list[Point]:
    """The network at each gate."""
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
    here = replace(run, network=network)
    with recording(network) as recordings:
        held_out = held_out_outputs(here, trainer, base)
        curve = None
        if held_out is not None:
            costs = sample_costs(network, recordings, base, len(held_out.targets))
            curve = cost_accuracy(held_out, costs=costs)
    samples, tasks = run.objects.benchmark.seen(run.objects.benchmark[len(network.sizes) - 1])
    with recording(network) as recordings:
        logits = trainer.predict(network, samples, partial(run.objects.approach.answer, network))
        costs = sample_costs(network, recordings, base, len(samples))
    mean = Cost((costs.mean(1) * base.plain).tolist(), base.plain)
    ffn_cost = relative_ffn_cost(network, recordings)
    outputs = Outputs(logits, samples.targets, tasks, tuple(network.sizes), mean)
    return Point(None, outputs, costs, ffn_cost, curve)


def sample_costs(network: ExitNetwork, recordings: Mapping[str, Recording], base: Cost, samples: int) -> Tensor:
    """Cost of each sample up to each exit, relative to `base.plain`: float64 [E, N].

    Args:
        base: cost of the dense network.
    """
    costs = torch.tensor(base.exits, dtype=torch.float64)[:, None].repeat(1, samples)
    for name, ffn in dynamic_ffns(network).items():
        cost = layer_cost(ffn)
        counts = torch.cat([each.flatten(1).cpu() for each in recordings[name].counts]).double()  # [N, tokens]
        stage = int(name.removeprefix("backbone.stages.").partition(".")[0])
        first = next(index for index, (_, end) in enumerate(network.bounds) if stage < end)
        costs[first:] += (cost.of(counts) - cost.dense).sum(1)
    return costs / base.plain


def chosen(original: Point, points: Sequence[Point], tolerance: float) -> Choice | None:
    """The tau and exit threshold of least cost that lose at most `tolerance` of the original's accuracy.

    The original answers with its most confident exit where it has ACs.
    """
    wanted, best, least = original.selection.accuracy[-1] - tolerance - 1e-9, None, torch.inf
    for point in points:
        curve = point.selection
        cost = curve.cost.where(curve.accuracy >= wanted, torch.inf)
        if cost.min() < least:
            least, threshold = cost.min(), curve.thresholds[cost.argmin()]
            tested = cost_accuracy(point.outputs, thresholds=threshold[None], costs=point.costs)
            best = Choice(point.gate.threshold, threshold.item(), tested.accuracy.item(), tested.cost.item())
    return best


@torch.no_grad()
def expert_load(network: ExitNetwork, images: Tensor) -> dict[str, Tensor]:
    """Share of the tokens of `images` that ask for each expert, by FFN: [E] each."""
    with recording(network) as recordings:
        network(images)
    return {name: each.load.cpu() / sum(counts.numel() for counts in each.counts) for name, each in recordings.items()}


@torch.no_grad()
def tokens_executed(network: ExitNetwork, images: Tensor) -> Tensor:
    """Experts executed for each token of `images`, summed over the FFNs that see as many tokens as the first."""
    with recording(network) as recordings:
        network(images)
    counts = [each.counts[0].flatten(1).cpu().int() for each in recordings.values()]
    return torch.stack([each for each in counts if each.shape == counts[0].shape]).sum(0)


@torch.no_grad()
def sparsity(network: ExitNetwork, images: Tensor) -> dict[str, Counts]:
    """How sparse the hidden activations of each dense FFN are."""
    caught: dict[str, list[Tensor]] = {}

    def catch(name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        caught.setdefault(name, []).append(output)

    found = find_feed_forwards(network)
    hooks = [each.activation_module.register_forward_hook(partial(catch, name)) for name, each in found.items()]
    network(images)
    for hook in hooks:
        hook.remove()
    return {name: count_sparsity(hidden) for name, hidden in caught.items()}


@torch.inference_mode()
def measure(converted: Converted, batches: Sequence[int] = BATCHES, repeats: int = 5) -> dict[int, dict[str, float]]:
    """Measured seconds relative to the original network without ACs, by batch size and way of running it.

    `dense`, each tau without early exits, and `chosen`, with them. The gates are left at the chosen tau.
    """
    run, dynamic = converted.run, converted.dynamic
    trainer = Trainer(run.objects.training, run.objects.benchmark.augmentation, run.device)
    test, _ = run.objects.benchmark.seen(run.objects.benchmark[len(dynamic.sizes) - 1])
    found: dict[int, dict[str, float]] = {}
    plain, fast = plain_model(run.network), plain_model(dynamic)
    for batch in batches:
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
        some = test.select(order[: min(max(4 * batch, 64), 1024)])
        images = torch.cat(list(trainer.loader(some).in_order(256)))

        def answered(model: nn.Module, parts: tuple[Tensor, ...] = images.split(batch)) -> None:
            for part in parts:
                model(part)

        ways: dict[str, tuple[float, nn.Module]] = {
            f"tau {point.gate.threshold:g}": (point.gate.threshold, fast) for point in converted.points
        }
        if choice := converted.choice:
            early = EarlyExitModel(dynamic, run.objects.approach, Confidence(choice.confidence))
            ways["chosen"] = (choice.tau, early)
        found[batch] = {}
        for name, (tau, model) in ways.items():
            set_gate(dynamic, Gate("max", tau))
            measure_usage(dynamic, images[:batch])
            runs = {"plain": partial(answered, plain), name: partial(answered, model)}
            seconds = interleaved_medians(runs, repeats, run.device)
            found[batch][name] = seconds[name] / seconds["plain"]
    return found


def table(converted: Converted, measured: Measured = NOT_MEASURED) -> Table:
    """One row for each way of running the network, in per cent."""
    made = Table(title="costs relative to the original: of its FFNs, and of the network without ACs")
    made.add_column("")
    columns = ["FFN cost", "cost, whole network", "accuracy, final exit", "best with early exits", "at cost"]
    for name in [*columns, *(f"measured, batch {batch}" for batch in measured)]:
        made.add_column(name, justify="right")
    for name, point in rows(converted):
        best = point.curve.accuracy.argmax()
        cells = [point.ffn_cost, *point.whole]
        cells += [point.curve.accuracy[best].item(), point.curve.cost[best].item()]
        key = f"tau {point.gate.threshold:g}" if point.gate else ""
        times = [times.get(key) if name.startswith("D2DMoE") else None for times in measured.values()]
        made.add_row(name, *map(percent, cells), *("–" if each is None else percent(each, 0) for each in times))
    if choice := converted.choice:
        name = f"chosen: D2DMoE tau {choice.tau:g}, exits at confidence {choice.confidence:.3f}"
        times = [percent(times["chosen"], 0) if "chosen" in times else "–" for times in measured.values()]
        made.add_row(name, "–", "–", "–", percent(choice.accuracy), percent(choice.cost), *times)
    return made


def rows(converted: Converted) -> list[tuple[str, Point]]:
    """Every way of running the network with its name."""
    named = [("original", converted.original), ("sparse, still dense", converted.dense)]
    named += [(f"D2DMoE tau {point.gate.threshold:g}", point) for point in converted.points]
    return named + [(f"MoEfication k {point.gate.threshold:g}", point) for point in converted.baseline]


def numbers(converted: Converted, measured: Measured) -> dict[str, Any]:
    """All results as plain values."""
    points = {
        name: {
            "ffn_cost": point.ffn_cost,
            "exit_costs": point.costs.mean(1).tolist(),
            "exit_accuracies": point.outputs.correct.double().mean(1).tolist(),
            "curve": {"cost": point.curve.cost.tolist(), "accuracy": point.curve.accuracy.tolist()},
        }
        for name, point in rows(converted)
    }
    return {
        "points": points,
        "chosen": None if converted.choice is None else asdict(converted.choice),
        "chosen_on": "test samples" if converted.original.held_out is None else "held-out training samples",
        "sparsity": {name: asdict(counts) for name, counts in converted.counts.items()},
        "expert_load": {name: load.tolist() for name, load in converted.load.items()},
        "measured": {str(batch): dict(times) for batch, times in measured.items()},
    }


def write(
    converted: Converted,
    directory: RunDirectory,
    measured: Measured = NOT_MEASURED,
) -> list[Path]:
    """Writes numbers, figures and the chosen model to `convert/` in the run's folder, and returns their paths.

    The model, a file that `serving.load` reads, is left out if no tau is within the tolerance.
    """
    folder = directory.path / "convert"
    folder.mkdir(exist_ok=True)
    text = json.dumps({**numbers(converted, measured), "provenance": provenance()}, indent=1)
    paths = [folder / "numbers.json"]
    write_atomically(paths[0], lambda path: path.write_text(text))
    drawn = {
        "cost_accuracy": cost_figure(
            converted.original.curve,
            {point.gate.threshold: (point.curve, *point.whole) for point in converted.points},
            [point.whole for point in converted.baseline],
        ),
        "expert_load": load_figure(converted.load),
    }
    images = map_figure(converted.images, converted.counts_of_tokens)
    for name, figure in {**drawn, **({} if images is None else {"expert_maps": images})}.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
    if choice := converted.choice:
        set_gate(converted.dynamic, Gate("max", choice.tau))
        rule = Confidence(choice.confidence)
        paths.append(folder / "model.pt")
        save(EarlyExitModel(converted.dynamic, converted.run.objects.approach, rule), paths[-1], directory.config)
    return paths
