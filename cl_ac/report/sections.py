"""What a comparison of runs shows: sections of tables and figures, as values that a page or files are made of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from cl_ac.recording.figures import (
    accuracy_matrix_figure,
)
from cl_ac.report.comparison import Comparison
from cl_ac.report.formats import ResultTable
from cl_ac.report.run_figures import cost_figures, curve_figures, drift_figures, exit_map, gap_figures
from cl_ac.report.run_tables import (
    differences,
    drift_table,
    exit_accuracies,
    gaps,
    known_task,
    stream_table,
    summary,
    task_accuracies,
    task_costs,
)
from cl_ac.report.sparse_networks import SPARSE_TEXT, sparse_table
from cl_ac.report.training_cost import TRAINING_TEXT, training_table


@dataclass(frozen=True)
class Section:
    """One question about some runs.

    Args:
        title: the question in a few words.
        text: what is shown and how it was computed.
        tables: to read.
        figures: by file name.
    """

    title: str
    text: str
    tables: list[ResultTable] = field(default_factory=list)
    figures: Mapping[str, Figure] = field(default_factory=dict)


def sections(comparison: Comparison) -> Iterator[Section]:
    """All sections of a comparison that its runs have data for."""
    yield Section(
        "Summary",
        "Class-incremental accuracy in per cent after the last task, mean over tasks; runs with ACs answer with their "
        "most confident exit. Mean ± sample deviation over seeds. Weighted: each class counts the same, not each "
        "task, as in the published average incremental accuracy. Cost at equal accuracy: the smallest mean cost, "
        "in per cent of that of the network without ACs, at which the confidence rule is as accurate over all samples "
        "as the same approach without ACs.",
        [summary(comparison)],
    )
    if comparison.differences:
        yield Section("What differs", "Settings that are not the same in all runs.", [differences(comparison)])
    if any(group.tasks > 1 for group in comparison.groups):
        yield Section("Accuracy and forgetting over tasks", LINES_TEXT, [], dict(curve_figures(comparison)))
    yield Section(
        "Accuracy matrices",
        "Rows: after each task; columns: on each task. Per cent, mean over seeds.",
        [task_accuracies(comparison)],
        {
            f"accuracy_matrix-{group.label}": accuracy_matrix_figure(group.answers.mean(0), group.label)
            for group in comparison.groups
        },
    )
    yield Section("Known task", KNOWN_TEXT, [known_task(comparison)])
    if (of_streams := stream_table(comparison)) is not None:
        yield Section("Stream", STREAM_TEXT, [of_streams])
    yield Section(
        "Cost after each task",
        "Multiply-accumulates of one image through the whole network, ACs included, without element-wise work, and its "
        "parameters, in millions. Methods that add branches or networks pay for them here.",
        [task_costs(comparison)],
    )
    with_acs = [group for group in comparison.groups if group.has_acs]
    if with_acs:
        yield Section(
            "Exits", "Accuracy of each exit on each task after the last one, mean over seeds.",
            [exit_accuracies(with_acs)], {f"exits-{group.label}": exit_map(group) for group in with_acs},
        )  # fmt: skip
        yield Section(
            "Cost and accuracy",
            "Accuracy over all samples as the threshold of the confidence rule moves, mean over seeds. A dashed line "
            "is a network without ACs. Thresholds are chosen on the test samples, as in the literature.",
            [], dict(cost_figures(comparison)),
        )  # fmt: skip
    if any(group.training_macs for group in comparison.groups):
        yield Section("Cost of training", TRAINING_TEXT, [training_table(comparison.groups)])
    sparse = [group for group in comparison.groups if group.sparsity]
    if sparse:
        yield Section("Sparse networks", SPARSE_TEXT, [sparse_table(sparse)])
    watched = [group for group in comparison.groups if group.watched]
    if watched:
        yield Section(
            "Stability gap",
            GAP_TEXT,
            [gaps(watched)],
            dict(gap_figures(watched)),
        )
    drifted = [group for group in comparison.groups if group.drifts and group.tasks > 1]
    if drifted:
        yield Section("Drift", DRIFT_TEXT, [drift_table(drifted)], dict(drift_figures(drifted)))


LINES_TEXT = (
    "After each task, mean over the tasks seen so far (accuracy) and over the earlier ones (forgetting: how far each "
    "is below its best). Bands are one sample deviation over seeds; dashed lines are networks without ACs."
)
KNOWN_TEXT = (
    "Accuracy after the last task where each image comes with the task that it belongs to and only the classes of that "
    "task are open to choice, on each task and, mean over tasks, of each exit. Of the same outputs: nothing is trained "
    "for it. In a domain all classes are open."
)
STREAM_TEXT = (
    "What the way in which data arrive asks for, of the final exit. Forward transfer (Lopez-Paz & Ranzato, 2017): how "
    "much better a domain is answered just before it is learned than by the network as the run began. Missing classes: "
    "accuracy on the classes seen that the last task did not bring again. Head, medium, tail: thirds of the classes by "
    "their number of training samples. Wrong exemplars: share of the memory whose labels are wrong."
)
GAP_TEXT = (
    "Accuracy while later tasks are learned; the figures show the first seed, with dotted lines where tasks begin, and "
    "first all runs over each other, every task as wide as the others, by the most confident exit or the only one. "
    "Gap: accuracy before a task minus the lowest since, mean over earlier tasks and then over tasks. Min-ACC and "
    "WC-ACC as De Lange et al. (2023) define them, over all later tasks. Settling: steps until nine tenths of the "
    "accuracy at the task's end are first reached from the lowest point on. Recency bias: share of earlier tasks' "
    "samples that are taken for the newest task. A_AUC (Koh et al., 2022): mean over all steps of the accuracy on the "
    "classes seen by then."
)
DRIFT_TEXT = (
    "How similar the features of earlier tasks' images are to what they were when their task had just been learned: "
    "linear CKA (Kornblith et al., 2019) in per cent, 100 for the same features up to rotation and scale; mean over "
    "earlier tasks and seeds. Newest rows: mean norm of the newest task's classifier rows relative to that of the "
    "earlier tasks' rows, after the last task; above 100 the classifier favours new classes."
)
