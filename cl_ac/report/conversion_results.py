"""What a conversion comes to, as a table, as numbers and figures in files, and as a saved model."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from cl_ac.efficiency.dynamic import set_gate
from cl_ac.efficiency.gates import Gate
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.recording.files import storing, write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent
from cl_ac.report.conversion_figures import cost_figure, load_figure, map_figure, time_figure
from cl_ac.serving.conversion import Converted
from cl_ac.serving.conversion_timing import Seconds
from cl_ac.serving.model_file import save
from cl_ac.serving.operating_points import Point
from cl_ac.serving.paired_loss import LEVEL, samples_needed

# By batch size.
Measured = Mapping[int, Seconds]
NOT_MEASURED: Measured = MappingProxyType({})


def rows(converted: Converted) -> list[tuple[str, Point]]:
    """Every way of running the network with its name."""
    named = [("original", converted.original), ("sparse, still dense", converted.dense)]
    named += [(f"D2DMoE tau {point.gate.threshold:.3g}", point) for point in converted.points]
    return named + [(f"MoEfication k {point.gate.threshold:g}", point) for point in converted.baseline]


def table(converted: Converted, measured: Measured = NOT_MEASURED) -> Table:
    """One row for each way of running the network, in per cent."""
    title = "costs in % of the original: of its FFNs, and of its network without ACs"
    made = Table(title=title, caption=decision(converted))
    made.add_column("")
    columns = ["FFN cost", "cost, whole network", "accuracy, final exit", "best with early exits", "at cost"]
    for name in [*columns, *(f"time, batch {batch}" for batch in measured)]:
        made.add_column(name, justify="right")
    families = [2, len(converted.points), len(converted.baseline)]
    last_of_family = {sum(families[:count]) - 1 for count in (1, 2, 3)}
    for index, (name, point) in enumerate(rows(converted)):
        best = point.curve.accuracy.argmax()
        cells = [point.ffn_cost, *point.whole]
        cells += [point.curve.accuracy[best].item(), point.curve.cost[best].item()]
        timed = point.gate is not None and point.gate.rule == "max"
        times = [each.whole[point.gate.threshold] if timed else None for each in measured.values()]
        made.add_row(name, *map(percent, cells), *map(_rounded, times), end_section=index in last_of_family)
    if choice := converted.choice:
        name = f"chosen: tau {choice.tau:.3g}, exits at {choice.confidence:.3f}"
        chosen_times = [_rounded(each.chosen) for each in measured.values()]
        made.add_row(name, "–", "–", "–", percent(choice.accuracy), percent(choice.cost), *chosen_times)
    return made


def decision(converted: Converted) -> str:
    """One sentence on how the model to save was chosen, or why there is none."""
    choice, tolerance = converted.choice, converted.settings.tolerance
    whole = converted.settings.budget is not None
    tried, allowed = choice or converted.chosen.refused, f"{percent(tolerance)} %"
    if whole and not choice.samples:
        return "The chosen model keeps to the budget without early exits, of which none is shown to do as well."
    samples, sure = f"{tried.samples} {decided_on(converted)}", f"with {percent(LEVEL, 0)} % confidence"
    if choice is None and tried.samples < samples_needed(tolerance):
        return (
            f"Nothing is chosen: {samples} are too few to show {sure} that a model loses at most {allowed}; that takes "
            f"{samples_needed(tolerance)}. Raise --tolerance, or hold out more in the run (--benchmark.validation)."
        )
    reference = "its network without early exits" if whole else "the original"
    bound = f"it loses at most {percent(tried.bound)} % against {reference} {sure}"
    found = f"{bound} ({tried.lost} lost and {tried.won} won of {samples})"
    if choice is None:
        return f"Nothing is chosen: of the surest candidate is only known that {found}; {allowed} is allowed."
    return f"Of the chosen model is known that {found}; {allowed} is allowed."


def decided_on(converted: Converted) -> str:
    """The samples that choices are made on."""
    none_held_out = converted.original.held_out is None
    return "test samples instead of held-out ones" if none_held_out else "held-out training samples"


def _rounded(share: float | None) -> str:
    return "–" if share is None else percent(share, 0)


def numbers(converted: Converted, measured: Measured = NOT_MEASURED) -> dict[str, Any]:
    """All results as plain values."""
    points = {
        name: {
            "gate": None if point.gate is None else asdict(point.gate),
            "thresholds": thresholds(point),
            "ffn_cost": point.ffn_cost,
            "exit_costs": point.test.costs.mean(1).tolist(),
            "exit_accuracies": point.test.outputs.correct.double().mean(1).tolist(),
            "curve": {"cost": point.curve.cost.tolist(), "accuracy": point.curve.accuracy.tolist()},
        }
        for name, point in rows(converted)
    }
    return {
        "points": points,
        "chosen": None if converted.choice is None else asdict(converted.choice),
        "refused": None if converted.chosen.refused is None else asdict(converted.chosen.refused),
        "chosen_on": decided_on(converted),
        "decision": decision(converted),
        "sparsity": {name: asdict(counts) for name, counts in converted.sparsity.items()},
        "expert_load": {name: load.tolist() for name, load in converted.usage.load.items()},
        "measured": {str(batch): asdict(each) for batch, each in measured.items()},
    }


def thresholds(point: Point) -> dict[str, float] | None:
    """Those of single layers by path, where they differ."""
    if point.gates is None or isinstance(point.gates, Gate):
        return None
    return {name: gate.threshold for name, gate in point.gates.items()}


def figures(converted: Converted, measured: Measured = NOT_MEASURED) -> dict[str, Figure]:
    """All figures by name; maps only where tokens are patches of an image, times only where they were measured."""
    whole = {point.gate.threshold: point.whole for point in converted.points}
    curves = {point.gate.threshold: point.curve for point in converted.points}
    baseline = [point.whole for point in converted.baseline]
    drawn = {
        "cost_accuracy": cost_figure(converted.original.curve, curves, whole, baseline, converted.choice),
        "expert_load": load_figure(converted.usage.load),
        "expert_maps": map_figure(converted.usage.images, converted.usage.masks),
        "time_accuracy": time_figure(whole, measured, converted.choice) if measured else None,
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def write(converted: Converted, directory: RunDirectory, measured: Measured = NOT_MEASURED) -> list[Path]:
    """Writes numbers, figures and the chosen model to `convert/` in the run's folder, and returns their paths.

    The model, a file that `serving.load` reads, is left out if nothing is within the tolerance.
    """
    folder = directory.folder("convert")
    for sometimes in ("expert_maps.png", "time_accuracy.png", "model.pt"):
        # Those of an earlier conversion do not belong to these numbers.
        (folder / sometimes).unlink(missing_ok=True)
    text = json.dumps({**numbers(converted, measured), "provenance": provenance()}, indent=1)
    paths = [folder / "numbers.json"]
    write_atomically(paths[0], lambda path: path.write_text(text))
    for name, figure in figures(converted, measured).items():
        paths.append(folder / f"{name}.png")
        with storing(paths[-1]):
            figure.savefig(paths[-1], dpi=150)
    if choice := converted.choice:
        set_gate(converted.dynamic, converted.chosen_gates)
        rule = Confidence(choice.confidence)
        paths.append(folder / "model.pt")
        save(EarlyExitModel(converted.dynamic, converted.run.objects.approach, rule), paths[-1], directory.config)
    return paths
