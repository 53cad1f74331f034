"""The figures of a comparison of runs."""

from collections.abc import Callable, Iterator, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cl_ac.recording.figures import (
    CostLine,
    Line,
    cost_accuracy_figure,
    exit_accuracy_map,
    line_figure,
)
from cl_ac.report.comparison import Comparison, Group
from cl_ac.report.run_tables import MOST_LINES, exit_labels, kept_features
from cl_ac.report.watched_figures import gap_overlay, old_tasks_figure, task_accuracy_figure

Panel = tuple[str, list[tuple[Group, int | None]]]


def drift_figures(groups: Sequence[Group]) -> Iterator[tuple[str, Figure]]:
    """What each exit keeps of the features of earlier tasks, after each task but the first."""
    for group in groups:
        kept = torch.stack([kept_features(drift) for drift in group.drifts])
        names = exit_labels(kept.shape[-1])
        tasks = range(2, 2 + kept.shape[1])
        lines = [Line(name, tasks, kept[..., place], place) for place, name in enumerate(names)]
        figure = line_figure(lines, f"{group.label}: features of earlier tasks", "tasks learned", "CKA (%)")
        figure.axes[0].set_ylim(-2, 102)  # the same for all groups
        yield _file_name("drift", group.label), figure


def exit_map(group: Group) -> Figure:
    """The accuracy of each exit on each task after the last one."""
    return exit_accuracy_map(group.last.mean(0).T, exit_labels(group.last.shape[-1]), group.label)


def panels(comparison: Comparison) -> Iterator[Panel]:
    """What is drawn together: all groups if they are few, else a panel for each family with the others in grey.

    Yields:
        The panel's name, empty if there is only one, and its groups with the place of each family's colour; None for
        a group in the background.
    """
    families = comparison.families
    if len(comparison.groups) <= MOST_LINES:
        yield "", [(group, place) for place, groups in enumerate(families.values()) for group in groups]
        return
    for name, own in families.items():
        others = [(group, None) for group in comparison.groups if group.family != name]
        yield name, [*others, *((group, place) for place, group in enumerate(own))]


def curve_figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    """Average accuracy and forgetting after each task."""
    kinds: dict[str, tuple[Callable[[Group], Tensor], int]] = {
        "average accuracy": (lambda group: group.average_accuracy, 1),
        "forgetting": (lambda group: group.forgetting, 2),
    }
    for kind, (values, first) in kinds.items():
        for name, members in panels(comparison):
            lines = [
                Line(group.label, range(first, first + y.shape[1]), y, colour, not group.has_acs)
                for group, colour in members
                if (y := values(group)).shape[1]
            ]
            title = f"{kind}, {name}" if name else kind
            yield _file_name(kind, name), line_figure(lines, title, "tasks learned", f"{kind} (%)")


def cost_figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    """Accuracy against cost; panels without ACs are left out."""
    for name, members in panels(comparison):
        drawn = [(group, place) for group, place in members if place is not None]
        if any(group.has_acs for group, _ in drawn):
            lines = [CostLine(group.label, group.curves, group.all_samples, place) for group, place in drawn]
            yield _file_name("cost_accuracy", name), cost_accuracy_figure(lines, name)


def gap_figures(groups: Sequence[Group]) -> Iterator[tuple[str, Figure]]:
    """All groups over each other; of each, every task over training, and earlier tasks by each exit; of first seeds."""
    learning = [group for group in groups if len(group.watched[0]) > 1]
    for number, start in enumerate(range(0, len(learning), MOST_LINES) if len(learning) > 1 else (), start=1):
        some = learning[start : start + MOST_LINES]
        yield _file_name("gaps", str(number)), gap_overlay({group.label: group.watched[0] for group in some})
    for group in groups:
        first = group.watched[0]
        yield _file_name("task_accuracy", group.label), task_accuracy_figure(first, f"{group.label}: each task")
        if len(first) > 1:
            yield _file_name("old_tasks", group.label), old_tasks_figure(first, f"{group.label}: mean of earlier tasks")


def _file_name(kind: str, name: str) -> str:
    return "-".join(part for part in (kind.replace(" ", "_"), name) if part)
