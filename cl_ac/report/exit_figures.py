"""Figures of the exits of one run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from matplotlib.figure import Figure
from torch import Tensor

from cl_ac.evaluation import Outputs, average
from cl_ac.exits.curves import Curve, average_curve, exit_histogram, exit_points, oracle_curve
from cl_ac.exits.quality import reliability
from cl_ac.exits.rules import Confidence, decide
from cl_ac.watching.stability import answer_text, exit_names


def rules_figure(curves: Mapping[str, Curve], outputs: Outputs, plain: float | None = None) -> Figure:
    """Accuracy against relative cost, means over tasks: a curve for each rule, the oracle, a dot for each exit.

    Args:
        curves: means over tasks.
        plain: accuracy of a network without ACs, a dashed line.
    """
    tasks = [outputs.select(outputs.tasks == task) for task in range(len(outputs.sizes))]
    oracle, points = (average_curve([of(each) for each in tasks]) for of in (oracle_curve, exit_points))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(curve.cost, 100 * curve.accuracy, label=name)
    axes.plot(oracle.cost, 100 * oracle.accuracy, "k:", label="oracle")
    axes.plot(points.cost, 100 * points.accuracy, "ko", markersize=4, label="each exit")
    if plain is not None:
        axes.axhline(100 * plain, linestyle="--", color="grey", label="network without ACs")
    axes.set_xlabel("cost relative to the network without ACs")
    axes.set_ylabel("accuracy (%)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def exit_accuracy_figure(accuracies: Tensor) -> Figure:
    """Accuracy of each exit on each task.

    Args:
        accuracies: [T, E] in [0, 1].
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    names = [answer_text(name) for name in exit_names(accuracies.shape[1])]
    for task, row in enumerate(accuracies):
        axes.plot(names, 100 * row, "o-", label=f"task {task + 1}", color=f"C{task % 10}")
    axes.plot(names, 100 * average(accuracies), "ks--", label="mean over tasks")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    return figure


def exit_histogram_figure(outputs: Outputs, curve: Curve, by: Literal["task", "class"], cost: float = 0.75) -> Figure:
    """Where the samples of each task or class leave under the confidence rule, at the threshold closest to a cost.

    Args:
        curve: of the confidence rule.
        cost: relative to the network without ACs.
    """
    threshold = curve.thresholds[(curve.cost - cost).abs().argmin()].item()
    groups, count = (outputs.tasks, len(outputs.sizes)) if by == "task" else (outputs.targets, sum(outputs.sizes))
    exits = len(outputs.logits)
    decision = decide(replace(Confidence(), threshold=threshold), outputs)
    shares = 100 * exit_histogram(decision, groups, count, exits).nan_to_num().numpy()
    figure = Figure(figsize=(max(4, 1.5 + 0.3 * count), 4), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate([*map(answer_text, exit_names(exits)), "none is sure"]):
        axes.bar(range(count), shares[:, index], bottom=shares[:, :index].sum(1), label=name)
    if by == "task":
        axes.set_xticks(range(count), [str(number) for number in range(1, count + 1)])
    axes.set_xlabel(by)
    axes.set_ylabel("samples (%)")
    axes.set_title(f"confidence threshold {threshold:.3f}", fontsize="medium")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def reliability_figure(outputs: Outputs, bins: int = 15) -> Figure:
    """Accuracy against confidence in each bin, one diagram for each exit."""
    exits = len(outputs.logits)
    figure = Figure(figsize=(2.2 * exits + 0.6, 2.6), layout="constrained")
    panels = figure.subplots(1, exits, squeeze=False, sharey=True)[0]
    pairs = zip(panels, exit_names(exits), outputs.confidences, outputs.correct, strict=True)
    for axes, name, confidences, correct in pairs:
        diagram = reliability(confidences, correct, bins)
        centres = [(place + 0.5) / bins for place in range(bins)]
        axes.bar(centres, diagram.accuracy.nan_to_num().tolist(), width=1 / bins, alpha=0.7)
        axes.plot([0, 1], [0, 1], "k:", linewidth=1)
        axes.set_title(f"{answer_text(name)}: ECE {100 * diagram.error:.1f} %", fontsize="small")
        axes.set_xlabel("confidence")
    panels[0].set_ylabel("accuracy")
    return figure
