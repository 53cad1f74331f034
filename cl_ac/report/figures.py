"""Figures of finished runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from cl_ac.early_exit import cost_accuracy
from cl_ac.evaluation import Outputs, average
from cl_ac.rundir import RunDirectory


def cost_accuracy_figure(outputs: Mapping[str, Outputs]) -> Figure:
    """Accuracy against relative cost: a curve for each run with ACs, a line for each without.

    Args:
        outputs: by the name of the run.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for index, (name, each) in enumerate(outputs.items()):
        if len(each.logits) == 1:
            axes.axhline(100 * each.correct.double().mean().item(), linestyle="--", color=f"C{index}", label=name)
            continue
        curve = cost_accuracy(each)
        axes.plot(curve.cost.numpy(), 100 * curve.accuracy.numpy(), color=f"C{index}", label=name)
        exits = 100 * each.correct.double().mean(1).numpy()
        axes.plot(each.cost.relative, exits, "o", markersize=4, color=f"C{index}")
    axes.set_xlabel("cost relative to the network without ACs")
    axes.set_ylabel("accuracy (%)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def accuracy_matrix_figure(accuracies: Tensor, title: str) -> Figure:
    """The accuracy after each task (rows) on each task (columns).

    Args:
        accuracies: [T, T] in [0, 1], NaN where a task was not learned yet.
    """
    tasks = len(accuracies)
    figure = Figure(figsize=(1.5 + 0.6 * tasks, 1.2 + 0.5 * tasks), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * accuracies.numpy(), vmin=0, vmax=100, cmap="viridis")
    for row in range(tasks):
        for column in range(row + 1):
            value = 100 * accuracies[row, column].item()
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="w" if value < 60 else "k")
    axes.set_xticks(range(tasks), range(1, tasks + 1))
    axes.set_yticks(range(tasks), range(1, tasks + 1))
    axes.set_xlabel("on task")
    axes.set_ylabel("after task")
    axes.set_title(title, fontsize="medium")
    figure.colorbar(image, label="accuracy (%)")
    return figure


def average_accuracy_figure(accuracies: Mapping[str, Tensor], sizes: Sequence[int]) -> Figure:
    """The average accuracy over the tasks seen, after each task.

    Args:
        accuracies: [T, T] by the name of the run.
        sizes: classes of each task.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, cube in accuracies.items():
        seen = [sum(sizes[: task + 1]) for task in range(len(cube))]
        values = [100 * average(cube[task, : task + 1], sizes).item() for task in range(len(cube))]
        axes.plot(seen, values, "o-", label=name)
    axes.set_xlabel("classes seen")
    axes.set_ylabel("average accuracy (%)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def write_figures(directories: Sequence[RunDirectory], folder: Path) -> list[Path]:
    """Writes the figures of some runs as PNG files and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    last = {d.name: d.outputs(d.records[-1].task) for d in directories}
    cubes = {d.name: d.ac_accuracies() for d in directories}
    figures = {
        "cost_accuracy": cost_accuracy_figure(last),
        "average_accuracy": average_accuracy_figure(cubes, directories[0].records[-1].sizes),
        **{f"accuracy_matrix_{name}": accuracy_matrix_figure(cube, name) for name, cube in cubes.items()},
    }
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths
