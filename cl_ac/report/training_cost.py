"""What training costs beside what it comes to: a table of runs whose approach counts it."""

from collections.abc import Sequence

from cl_ac.evaluation import average
from cl_ac.report.comparison import Group
from cl_ac.report.formats import Cell, ResultTable, Spread

TRAINING_TEXT = (
    "Multiply-accumulates that a step of the last task took for each of its new images, in thousands, counted forward "
    "and backward without element-wise work: the classifier on new images, and beyond that on replayed samples; the "
    "decoder that draws samples; the previous network that labels them; and the generator's own training. Replay: all "
    "but new images. Seconds: measured, training and evaluation of all tasks. Accuracy as in the summary."
)
PARTS = ("new images", "samples", "decoder", "teacher", "generator")


def training_table(groups: Sequence[Group]) -> ResultTable:
    """One row for each group; without counts, the seconds alone."""
    rows: list[list[Cell]] = []
    for group in groups:
        macs = group.training_macs or {}
        parts: list[Cell] = [macs[part] / 1e3 if part in macs else "" for part in PARTS]
        replay: Cell = sum(value for part, value in macs.items() if part != "new images") / 1e3 if macs else ""
        seconds = Spread(tuple(group.seconds), percent=False)
        accuracy = Spread(tuple(average(group.answers[:, -1].T).tolist()))
        rows.append([group.label, *parts, replay, seconds, accuracy])
    columns = ["run", *PARTS, "replay", "seconds", "accuracy, %"]
    return ResultTable("training_cost", "training for each new image, thousand multiply-accumulates", columns, rows)
