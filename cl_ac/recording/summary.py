"""What a finished run comes to, in a few numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import Outputs, average, average_incremental, forgetting
from cl_ac.exits.curves import cost_accuracy, cost_at_accuracy
from cl_ac.recording.hyperparameters import Value, hyperparameters
from cl_ac.recording.records import Record
from cl_ac.recording.rundir import RunDirectory
from cl_ac.streams.metrics import forward_transfer


@dataclass(frozen=True)
class Summary:
    """What one finished run comes to; accuracies in [0, 1], class-incremental.

    The answer of a run with ACs is that of the most confident exit.

    Args:
        name: of the run.
        tasks: tasks finished.
        accuracy: after the last task, mean over tasks.
        accuracy_weighted: the same, weighted by the classes of each task.
        incremental: average over tasks learned of the mean accuracy over the tasks seen.
        incremental_weighted: the same, weighted by the classes of each task: the average incremental accuracy as it is
            published, over all classes seen.
        forgetting: mean over the earlier tasks.
        task_incremental: accuracy after the last task with the task known, mean over tasks.
        per_task: accuracy on each task [T].
        per_exit: mean accuracy of each exit, the final classifier last [E].
        cost_at_final: relative cost at which the run is as accurate as a reference; None if it never is.
        forward_transfer: of the final exit, see `streams.metrics`; None but for domains.
        missing_classes: accuracy of the final exit on the classes that the last task did not bring again; None where
            tasks share no class.
        head_classes: accuracy of the final exit on the third of the classes with the most training samples; None, as
            the next two, where there is no long tail.
        medium_classes: on the next third.
        tail_classes: on the third with the fewest.
        corrupted_exemplars: share of the exemplars after the last task that are labelled wrongly; None where true
            labels are not known.
    """

    name: str
    tasks: int
    accuracy: float
    accuracy_weighted: float
    incremental: float
    incremental_weighted: float
    forgetting: float
    task_incremental: float
    per_task: list[float]
    per_exit: list[float]
    cost_at_final: float | None = None
    forward_transfer: float | None = None
    missing_classes: float | None = None
    head_classes: float | None = None
    medium_classes: float | None = None
    tail_classes: float | None = None
    corrupted_exemplars: float | None = None

    @property
    def has_acs(self) -> bool:
        return len(self.per_exit) > 1


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
    answers, last = directory.ac_accuracies(), records[-1]
    known = torch.tensor(last.most_confident_task_incremental, dtype=torch.float64)
    exits = torch.tensor(last.exits, dtype=torch.float64)
    lost = forgetting(answers)
    head, medium, tail = (None, None, None) if last.thirds is None else (third[-1] for third in last.thirds)
    return Summary(
        directory.name,
        len(records),
        average(answers[-1]).item(),
        average(answers[-1], last.tested_classes).item(),
        average_incremental(answers).item(),
        average_incremental(answers, last.tested_classes).item(),
        lost.nanmean().item() if len(lost) else 0.0,
        average(known).item(),
        answers[-1].tolist(),
        average(exits).tolist(),
        None if reference is None else _cost_at(directory, reference),
        _forward_transfer(records),
        None if last.missing_classes is None else last.missing_classes[-1],
        head,
        medium,
        tail,
        last.corrupted_exemplars,
    )


def _forward_transfer(records: Sequence[Record]) -> float | None:
    pairs = [(each.next_task, each.next_task_untrained) for each in records[:-1] if each.next_task]
    if not pairs:
        return None
    before, untrained = (torch.tensor(rows, dtype=torch.float64) for rows in zip(*pairs, strict=True))
    return forward_transfer(before, untrained)[-1].item()


def _cost_at(directory: RunDirectory, accuracy: float) -> float | None:
    outputs = directory.outputs(directory.records[-1].task)
    return cost_at_accuracy(cost_accuracy(outputs), accuracy)


def without_acs(directory: RunDirectory, others: Sequence[RunDirectory]) -> RunDirectory | None:
    """The run among `others` that `directory` is to be compared with: without ACs, of the same approach, backbone,
    benchmark and seed, as far as it, and of several the one with the most settings in common; None if there is none.
    """
    own = hyperparameters(directory.config)

    def is_like(other: RunDirectory) -> bool:
        records = other.records
        ends = bool(records) and len(records[-1].relative_cost) == 1
        return ends and records[-1].task == directory.records[-1].task and _kin(other) == _kin(directory)

    def common(other: RunDirectory) -> int:
        return len(own.items() & hyperparameters(other.config).items())

    return max(filter(is_like, others), key=common, default=None)


def _kin(directory: RunDirectory) -> dict[str, Value]:
    """What runs have in common whose accuracies at equal cost are compared."""
    settings = hyperparameters(directory.config)
    # ACs that were attached later belong to what the network was trained by.
    approach = settings.get("approach.approach", settings.get("approach", ""))
    rooms = ("benchmark", "backbone", "seed")
    return {"approach": approach, **{name: v for name, v in settings.items() if name.split(".")[0] in rooms}}


def accuracy_of_samples(directory: RunDirectory) -> float:
    """Accuracy of the final exit over all samples, after the last task."""
    return directory.outputs(directory.records[-1].task).correct[-1].double().mean().item()


def overconfident_exits(outputs: Outputs) -> dict[str, tuple[float, float]]:
    """By name, the exits that guess or do worse and yet are sure of it: accuracy and mean confidence over samples.

    A guess is right once in as many times as there are classes.
    """
    classes = outputs.logits.shape[-1]
    accuracies = outputs.correct.double().mean(1).tolist()
    confidences = outputs.confidences.double().mean(1).tolist()
    names = [*(f"exit {index}" for index in range(len(confidences) - 1)), "final exit"]
    found = zip(names, accuracies, confidences, strict=True)
    return {name: (right, sure) for name, right, sure in found if classes > 2 and right <= 1 / classes and sure > 0.5}


def percent(value: float, digits: int = 1) -> str:
    """A share in [0, 1] as a number of per cent."""
    return f"{100 * value:.{digits}f}" if torch.tensor(value).isfinite() else "–"
