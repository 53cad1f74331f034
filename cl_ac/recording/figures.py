"""Figures of finished runs: each function draws plain values and returns a figure that no window holds.

Shapes: T tasks, E exits. Accuracies in [0, 1], NaN where there is none; drawn in per cent.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cl_ac.exits.curves import Curve

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
}
PANEL = (3.95, 2.9)  # inches: one across a telephone, three across a page
LINES = matplotlib.color_sequences["tab10"]
NUMBERED = 40  # fields a side of a heat map up to which each has its number
DEPTHS = matplotlib.colormaps["viridis"]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Args:
        label: in the legend.
        x: [K].
        y: [S, K], in [0, 1]: one row for each seed; the mean is drawn, and a band of one deviation.
        colour: place in the cycle of colours; None for a grey line in the background, which has no label.
        dashed: a dashed line.
    """

    label: str
    x: Sequence[float] | Tensor
    y: Tensor
    colour: int | None = 0
    dashed: bool = False


@contextmanager
def panel(width: float = PANEL[0], height: float = PANEL[1]) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one set of axes, in the style of all figures here."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        yield figure, figure.subplots()


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """A legend under the axes, in as many rows as it needs; the axes keep their size."""
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        return
    # A panel is about 58 letters wide, and a sample of the line takes 8.
    columns = max(1, min(columns, 58 // (max(map(len, labels)) + 8)))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * rows)
    figure.legend(loc="outside lower center", ncols=columns)


def line_figure(lines: Sequence[Line], title: str, x_label: str, y_label: str, whole_x: bool = True) -> Figure:
    """Curves over the same axis.

    Args:
        whole_x: mark whole numbers only.
    """
    with panel() as (figure, axes):
        for line in lines:
            _draw(axes, line)
        if whole_x:
            axes.locator_params("x", integer=True)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_title(title)
        legend(figure, axes)
    return figure


def _draw(axes: Axes, line: Line) -> None:
    mean = 100 * line.y.mean(0)
    if line.colour is None:
        axes.plot(line.x, mean, color="0.85", linewidth=0.9, zorder=1)
        return
    colour, dashes = LINES[line.colour % len(LINES)], "--" if line.dashed else "-"
    marker = "o" if len(mean) <= 25 else None
    axes.plot(line.x, mean, dashes, marker=marker, color=colour, label=line.label, zorder=3)
    if len(line.y) > 1:
        std = 100 * line.y.std(0)
        axes.fill_between(line.x, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0, zorder=2)


@dataclass(frozen=True)
class CostLine:
    """What some runs come to at each cost.

    Args:
        label: in the legend.
        curves: one for each seed.
        exits: accuracy at each exit [S, E]; without ACs a dashed line, since nothing can be saved.
        colour: place in the cycle of colours.
    """

    label: str
    curves: Sequence[Curve]
    exits: Tensor
    colour: int = 0


def cost_accuracy_figure(lines: Sequence[CostLine], title: str = "") -> Figure:
    """Accuracy against relative cost."""
    with panel() as (figure, axes):
        for line in lines:
            colour = LINES[line.colour % len(LINES)]
            if line.exits.shape[1] == 1:
                axes.axhline(100 * line.exits.mean().item(), linestyle="--", color=colour, label=line.label)
            else:
                cost, accuracy = mean_curve(line.curves)
                axes.plot(cost, 100 * accuracy, color=colour, label=line.label)
        axes.set_xlabel("cost relative to the network without ACs")
        axes.set_ylabel("accuracy (%)")
        axes.set_xlim(left=0)
        axes.set_title(title)
        legend(figure, axes)
    return figure


def mean_curve(curves: Sequence[Curve], points: int = 201) -> tuple[Tensor, Tensor]:
    """The mean of some cost-accuracy curves at equal costs, over the costs that all of them reach.

    Returns:
        Costs [K] and accuracies [K].
    """
    low = max(curve.cost.min().item() for curve in curves)
    high = min(curve.cost.max().item() for curve in curves)
    cost = torch.linspace(low, max(low, high), points, dtype=torch.float64)
    return cost, torch.stack([_interpolated(curve, cost) for curve in curves]).mean(0)


def _interpolated(curve: Curve, cost: Tensor) -> Tensor:
    """The accuracy of `curve` at each of `cost` [K], on straight lines between its points."""
    right = torch.searchsorted(curve.cost, cost).clamp(1, max(1, len(curve.cost) - 1))
    if len(curve.cost) == 1:
        return curve.accuracy.expand(len(cost))
    x0, x1, y0, y1 = curve.cost[right - 1], curve.cost[right], curve.accuracy[right - 1], curve.accuracy[right]
    weight = ((cost - x0) / (x1 - x0).clamp(min=1e-12)).clamp(0, 1)
    return y0 + weight * (y1 - y0)


def heat_map(
    values: Tensor, title: str, x_label: str, y_label: str, rows: Sequence[str], columns: Sequence[str]
) -> Figure:
    """Shares as coloured fields with their number of per cent.

    Args:
        values: [rows, columns] in [0, 1]; NaN stays empty. More than `NUMBERED` a side are drawn smaller, without
            numbers and with every few names only: nobody reads ten thousand of them, and drawing them takes seconds.
    """
    height, width = values.shape
    longest = max(height, width)
    size = 0.36 if longest <= 12 else 0.24 * min(1, NUMBERED / longest)
    step = -(-longest // NUMBERED)
    colours = matplotlib.colormaps["Blues"]
    with panel(1.1 + max(1.6, size * width), 0.95 + size * height) as (figure, axes):
        shades: dict[str, Any] = {"vmin": 0, "vmax": 100, "cmap": colours}
        if step == 1:
            axes.pcolormesh(100 * values.numpy(), edgecolor="white", linewidth=0.8, **shades)
        else:
            axes.imshow(100 * values.numpy(), extent=(0, width, height, 0), aspect="auto", **shades)
        for row in range(height if step == 1 else 0):
            for column in range(width):
                value = values[row, column].item()
                if value == value:
                    ink = "white" if value > 0.6 else "#222222"
                    # Out of the layout, which would measure every one of them.
                    axes.text(column + 0.5, row + 0.5, f"{100 * value:.0f}", ha="center", va="center", color=ink,
                              fontsize=8 if size > 0.3 else 5.5, in_layout=False)  # fmt: skip
        axes.set_xticks([place + 0.5 for place in range(0, width, step)], columns[::step])
        axes.set_yticks([place + 0.5 for place in range(0, height, step)], rows[::step])
        axes.set_ylim(height, 0)
        axes.tick_params(length=0)
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_title(title, wrap=True)
    return figure


def numbered(count: int) -> list[str]:
    """`1` … `count`, as tasks are called in figures."""
    return [str(place + 1) for place in range(count)]


def accuracy_matrix_figure(accuracies: Tensor, title: str) -> Figure:
    """The accuracy after each task (rows) on each task (columns) [T, T]."""
    tasks = numbered(len(accuracies))
    return heat_map(accuracies, title, "on task", "after task", tasks, tasks)


def task_confusion_figure(confusion: Tensor, title: str) -> Figure:
    """The share of each task's samples (rows) that are taken for each task (columns) [T, T]."""
    tasks = numbered(len(confusion))
    return heat_map(confusion, title, "taken for task", "of task", tasks, tasks)


def exit_accuracy_map(accuracies: Tensor, names: Sequence[str], title: str) -> Figure:
    """The accuracy of each exit (rows) on each task (columns) [E, T]."""
    return heat_map(accuracies, title, "on task", "exit", names, numbered(accuracies.shape[1]))
