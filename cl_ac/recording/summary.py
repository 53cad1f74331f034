"""What a finished run comes to, in a few numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import average, average_incremental, forgetting
from cl_ac.exits.curves import cost_accuracy, cost_at_accuracy
from cl_ac.recording.rundir import RunDirectory


@dataclass(frozen=True)
class Summary:
    """What one finished run comes to; accuracies in [0, 1], class-incremental.

    The answer of a run with ACs is that of the most confident exit.

    Args:
        name: of the run.
        tasks: tasks finished.
        accuracy: after the last task, mean over tasks.
        accuracy_weighted: the same, weighted by the classes of each task.
        incremental: average incremental accuracy.
        forgetting: mean over the earlier tasks.
        task_incremental: accuracy after the last task with the task known, mean over tasks.
        per_task: accuracy on each task [T].
        per_exit: mean accuracy of each exit, the final classifier last [E].
        cost_at_final: relative cost at which the run is as accurate as a reference; None if it never is.
    """

    name: str
    tasks: int
    accuracy: float
    accuracy_weighted: float
    incremental: float
    forgetting: float
    task_incremental: float
    per_task: list[float]
    per_exit: list[float]
    cost_at_final: float | None = None


def summarise(directory: RunDirectory, reference: float | None = None) -> Summary:
    """The summary of a run.

    Args:
        reference: an accuracy over all samples, for `cost_at_final`.
    Raises:
        ConfigurationError: if no task of the run is finished.
    """
    records = directory.records
    if not records:
        raise ConfigurationError(f"'{directory.path}' holds no finished task")
    answers, sizes = directory.ac_accuracies(), records[-1].sizes
    lost = forgetting(answers)
    return Summary(
        directory.name,
        len(records),
        average(answers[-1]).item(),
        average(answers[-1], sizes).item(),
        average_incremental(answers).item(),
        lost.mean().item() if len(lost) else 0.0,
        average(directory.ac_accuracies(task_incremental=True)[-1]).item(),
        answers[-1].tolist(),
        average(directory.accuracies()[-1]).tolist(),
        None if reference is None else _cost_at(directory, reference),
    )


def _cost_at(directory: RunDirectory, accuracy: float) -> float | None:
    outputs = directory.outputs(directory.records[-1].task)
    return cost_at_accuracy(cost_accuracy(outputs), accuracy)


def reference_accuracy(directories: Sequence[RunDirectory]) -> float | None:
    """Accuracy over all samples of the first run without ACs; None if there is none."""
    for directory in directories:
        if len(directory.records[-1].relative_cost) == 1:
            outputs = directory.outputs(directory.records[-1].task)
            return outputs.correct.double().mean().item()
    return None


def percent(value: float, digits: int = 1) -> str:
    """A share in [0, 1] as a number of per cent."""
    return f"{100 * value:.{digits}f}" if torch.tensor(value).isfinite() else "–"
