"""What a run tells its loggers, and the charts that TensorBoard opens with.

Steps are training steps over the whole run. <exit> is `exit_0`, …, `final`; <answer> is that, `most_confident`, or
`nearest_mean/<exit>` where nearest means are watched. Tags:

    train/loss/<exit>                       mean loss of an epoch
    train/learning_rate
    train/gradient_norm                     mean over an epoch, before clipping
    validation/accuracy                     where the best epoch is selected by it
    accuracy/task_<u>/<answer>              test accuracy on task u after each task
    accuracy/average/<answer>               mean over the tasks seen
    accuracy_task_incremental/…             the same with the task known
    forgetting/<answer>                     mean over the earlier tasks
    summary/…                               what the run comes to so far, answered by the most confident exit
    watch/accuracy/task_<u>/<answer>        while a task is learned, if it is watched; every exit on the first task,
                                            the final and the most confident one on the others
    watch/accuracy/earlier_tasks/<answer>   mean over the earlier tasks
    watch/recency_bias/<answer>             share of the earlier tasks' samples that are taken for the newest task
    drift/cka_with_previous/task_<u>/<exit> features on task u: CKA with those before the newest task was learned,
    drift/cka_with_learned/task_<u>/<exit>  and with those when task u had just been learned
    drift/weight_norm/task_<u>/<exit>       mean norm of the weight rows of task u's classes; `bias_size` of the biases
    watch/tasks_begun                       as a share of all tasks: a step up wherever a task begins

Where a logger has other axes than training steps, so that runs line up by task whatever their steps, 100 for each task:

    by_task/accuracy/average/<answer>, by_task/forgetting/<answer>      after each task
    by_task/watch/accuracy/earlier_tasks/<answer>                       while a task is learned

Images after each task: accuracy_matrix/<exit>, confusion_by_task/<exit>, cost_accuracy; from the 40th on every second
only, from the 60th on every third, and so on, and after the last.

Of more than `MOST_TASKS` tasks every second, third, … has curves of its own: all of them are in metrics.jsonl.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cl_ac.data.tasks import Task
from cl_ac.evaluation import Outputs, average, forgetting, most_confident
from cl_ac.recording.files import storing
from cl_ac.recording.hyperparameters import hyperparameters
from cl_ac.recording.loggers import CsvLogger, Layout, Logger, LoggerName, TensorBoardLogger, WandbLogger
from cl_ac.recording.rundir import RunDirectory
from cl_ac.training import EpochReport
from cl_ac.watching.drift import Drift
from cl_ac.watching.stability import Watched, exit_names, task_recency_bias

METRICS = {
    "summary/accuracy": "accuracy",
    "summary/incremental_accuracy": "incremental",
    "summary/incremental_accuracy_weighted": "incremental_weighted",
    "summary/forgetting": "forgetting",
    "summary/task_incremental_accuracy": "task_incremental",
    "summary/cost_at_accuracy_of_final_exit": "cost_at_final",
}
# Where the stream gives them a meaning.
OF_STREAMS = {
    f"summary/{name}": name
    for name in (
        *("forward_transfer", "missing_classes", "head_classes", "medium_classes", "tail_classes"),
        "corrupted_exemplars",
    )
}
# Answers whose accuracy on every task is told while a task is learned; the others are told on the first task only.
WATCHED_EVERYWHERE = ("final", "most_confident", "nearest_mean/final")

# More curves than these in one chart cannot be told apart.
MOST_CURVES = 8
MOST_TASKS = 100
# Images are drawn so often while the number of tasks grows by itself, since they show all tasks each time.
IMAGES = 20
PER_TASK = 100
WHILE_LEARNED = "While a task is learned (set smoothing to 0, it hides the gap; stairs: tasks begun)"
BY_TASK = "By task, 100 a task: runs line up whatever their steps (set smoothing to 0, it hides the gap)"

_BEGUN = r"watch/tasks_begun$"
_HEADS = r"(exit_\d+|final|most_confident)$"
DASHBOARD = {
    "After each task": {
        "average accuracy over the tasks seen": [r"accuracy/average/"],
        "accuracy on each task, most confident exit": [r"accuracy/task_\d+/most_confident$"],
        "accuracy on each task, final exit": [r"accuracy/task_\d+/final$"],
        "accuracy on the first task, each exit": [r"accuracy/task_0/"],
        "forgetting, mean over the earlier tasks": [r"forgetting/"],
        "features of the first task, CKA with those first learned": [r"drift/cka_with_learned/task_0/"],
        "weight norms by task, final exit": [r"drift/weight_norm/task_\d+/final$"],
    },
    WHILE_LEARNED: {
        "accuracy on each task, most confident exit": [r"watch/accuracy/task_\d+/most_confident$", _BEGUN],
        "accuracy on each task, final exit": [r"watch/accuracy/task_\d+/final$", _BEGUN],
        "accuracy on the first task, each exit": [rf"watch/accuracy/task_0/{_HEADS}", _BEGUN],
        "earlier tasks, each exit": [rf"watch/accuracy/earlier_tasks/{_HEADS}", _BEGUN],
        "earlier tasks, linear against nearest mean": [
            r"watch/accuracy/earlier_tasks/nearest_mean/final$",
            r"watch/accuracy/earlier_tasks/final$",
            _BEGUN,
        ],
        "recency bias": [r"watch/recency_bias/", _BEGUN],
    },
    BY_TASK: {
        "average accuracy over the tasks seen, by task": [r"by_task/accuracy/average/"],
        "forgetting, by task": [r"by_task/forgetting/"],
        "earlier tasks while later ones are learned, by task": [rf"by_task/watch/accuracy/earlier_tasks/{_HEADS}"],
    },
    "Training": {
        "loss of each exit, before it is weighted": [r"train/loss/"],
        "learning rate": [r"train/learning_rate$"],
        "gradient norm": [r"train/gradient_norm$"],
        "validation accuracy": [r"validation/accuracy$"],
    },
}


def dashboard(tags: set[str]) -> Layout:
    """The charts for whose first pattern there are data, one for each question, as regular expressions of tags.

    Of more than `MOST_CURVES` tags a chart shows some, evenly spaced, with the first and the last.
    """
    shown: Layout = {}
    for category, charts in DASHBOARD.items():
        for title, patterns in charts.items():
            found = [pattern for pattern in patterns if any(re.match(pattern, tag) for tag in tags)]
            if patterns[0] not in found:
                continue
            curves = _in_order(tag for tag in tags if re.match("|".join(found), tag) and not re.match(_BEGUN, tag))
            if len(curves) > MOST_CURVES:
                title = f"{title} ({MOST_CURVES} of {len(curves)})"
                places = [round(n * (len(curves) - 1) / (MOST_CURVES - 1)) for n in range(MOST_CURVES)]
                begun = [pattern for pattern in found if pattern == _BEGUN]
                found = [f"{re.escape(curves[place])}$" for place in places] + begun
            shown.setdefault(category, {})[title] = ["Multiline", found]
    return shown


def _in_order(tags: Iterable[str]) -> list[str]:
    """Tags sorted by name, and by number where names have one."""
    return sorted(tags, key=lambda tag: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", tag)])


class EventLog:
    """Tells a run's loggers what happens.

    Args:
        directory: the run's.
        exits: E.
        tasks: T of the whole benchmark.
        step: where the run goes on.
        loggers: which ones.
    """

    def __init__(
        self,
        directory: RunDirectory,
        exits: int,
        tasks: int,
        step: int = 0,
        loggers: Sequence[LoggerName] = ("tensorboard",),
    ):
        settings = hyperparameters(directory.config)
        makers = {
            "tensorboard": lambda: TensorBoardLogger(directory.path, step, settings, list(METRICS), dashboard),
            "csv": lambda: CsvLogger(directory.path, step),
            "wandb": lambda: WandbLogger(directory.path, step, settings),
        }
        self.path = directory.path
        with storing(self.path):
            self.loggers: list[Logger] = [makers[name]() for name in loggers]
        self.names = exit_names(exits)
        self.tasks = tasks
        self.shown = shown_tasks(tasks)

    def epoch(self, report: EpochReport, step: int) -> None:
        """The losses of one epoch, at `step` of the run."""
        values = {f"train/loss/{name}": loss for name, loss in zip(self.names, report.losses.tolist(), strict=True)}
        values["train/learning_rate"] = report.lr
        optional = {"train/gradient_norm": report.gradient_norm, "validation/accuracy": report.validation}
        values.update({tag: value for tag, value in optional.items() if value is not None})
        self._scalars(values, step)
        self._flush()

    def watched(self, watched: Watched, known: int) -> None:
        """The watched points of a task, but for the first `known`."""
        for place in range(known, len(watched.steps)):
            step = int(watched.steps[place])
            # The point before a task's first step is the last one of the task before.
            if step or not watched.start:
                self._scalars(dict(_watched_values(watched, place, self.tasks, self.shown)), watched.start + step)

    def task(self, task: Task, directory: RunDirectory, step: int) -> None:
        """The accuracies after one task."""
        record, outputs = directory.records[-1], directory.outputs(task.index)
        accuracies = self._accuracies("accuracy", record.exits, record.most_confident)
        known = record.exits_task_incremental, record.most_confident_task_incremental
        forgotten = {} if task.is_first else self._forgetting(directory)
        self._scalars(
            {
                **accuracies,
                **self._accuracies("accuracy_task_incremental", *known),
                **forgotten,
                **_summary(directory, outputs),
                **self._drift(directory.drift_after(task.index)),
            },
            step,
        )
        averages = {tag: value for tag, value in accuracies.items() if tag.startswith("accuracy/average/")}
        after = {f"by_task/{tag}": value for tag, value in {**averages, **forgotten}.items()}
        watched = _by_task(directory.watched(task.index), self.tasks)
        points = [*watched, ((task.index + 1) * PER_TASK, after)]
        for logger in self.loggers:
            logger.over_tasks(points)
        if any(logger.shows_figures for logger in self.loggers) and has_images(task.index + 1, self.tasks):
            self._figures(directory, outputs, step)
        self._flush()

    def _accuracies(self, tag: str, exits: list[list[float]], surest: list[float]) -> dict[str, float]:
        values = {}
        for name, column in zip([*self.names, "most_confident"], [*zip(*exits, strict=True), surest], strict=True):
            values.update({f"{tag}/task_{task}/{name}": column[task] for task in self.shown if task < len(column)})
            values[f"{tag}/average/{name}"] = average(torch.tensor(column, dtype=torch.float64)).item()
        return values

    def _forgetting(self, directory: RunDirectory) -> dict[str, float]:
        lost = torch.cat([forgetting(directory.accuracies()), forgetting(directory.ac_accuracies())[:, None]], 1)
        names = [*self.names, "most_confident"]
        return {f"forgetting/{name}": value for name, value in zip(names, lost.nanmean(0).tolist(), strict=True)}

    def _drift(self, drift: Drift | None) -> dict[str, float]:
        if drift is None:
            return {}
        kinds = {
            "cka_with_previous": drift.since_previous.tolist(),
            "cka_with_learned": drift.since_learned.tolist(),
            "weight_norm": drift.weights.T.tolist(),
            "bias_size": drift.biases.T.tolist(),
        }
        return {
            f"drift/{kind}/task_{task}/{name}": value
            for kind, rows in kinds.items()
            for task in self.shown
            if task < len(rows)
            for name, value in zip(self.names, rows[task], strict=True)
            if math.isfinite(value)
        }

    def _figures(self, directory: RunDirectory, outputs: Outputs, step: int) -> None:
        from cl_ac.exits.curves import cost_accuracy
        from cl_ac.recording.figures import (
            CostLine,
            accuracy_matrix_figure,
            cost_accuracy_figure,
            task_confusion_figure,
        )

        figures = {"accuracy_matrix/final": accuracy_matrix_figure(directory.accuracies()[..., -1], "final exit")}
        figures["confusion_by_task/final"] = task_confusion_figure(
            task_confusion(outputs, outputs.predictions[-1]), "final exit"
        )
        if len(self.names) > 1:
            title, surest = "most confident exit", most_confident(outputs)
            chosen = outputs.predictions.gather(0, surest[None])[0]
            figures["accuracy_matrix/most_confident"] = accuracy_matrix_figure(directory.ac_accuracies(), title)
            figures["confusion_by_task/most_confident"] = task_confusion_figure(task_confusion(outputs, chosen), title)
            exits = outputs.correct.double().mean(1)[None]
            figures["cost_accuracy"] = cost_accuracy_figure([CostLine(directory.name, [cost_accuracy(outputs)], exits)])
        for tag, figure in figures.items():
            with storing(self.path):
                for logger in self.loggers:
                    logger.figure(tag, figure, step)

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        # A task that is not tested on its own has no curve.
        values = {tag: value for tag, value in values.items() if not math.isnan(value)}
        with storing(self.path):
            for logger in self.loggers:
                logger.scalars(values, step)

    def _flush(self) -> None:
        with storing(self.path):
            for logger in self.loggers:
                logger.flush()

    def close(self) -> None:
        with storing(self.path):
            for logger in self.loggers:
                logger.close()


def _summary(directory: RunDirectory, outputs: Outputs) -> dict[str, float]:
    from cl_ac.recording.summary import summarise

    summary = summarise(directory, outputs.correct[-1].double().mean().item())
    values = {tag: getattr(summary, name) for tag, name in {**METRICS, **OF_STREAMS}.items()}
    return {tag: value for tag, value in values.items() if value is not None}


def shown_tasks(tasks: int) -> range:
    """The tasks that have curves of their own, by index: all, or evenly spaced ones."""
    return range(0, tasks, -(-tasks // MOST_TASKS))


def has_images(finished: int, tasks: int) -> bool:
    """Whether images are drawn after so many of all tasks."""
    return finished == tasks or finished % max(1, finished // IMAGES) == 0


def _watched_values(watched: Watched, place: int, tasks: int, shown: Iterable[int] = ()) -> Iterator[tuple[str, float]]:
    yield "watch/tasks_begun", (watched.task + 1) / tasks
    biases = task_recency_bias(watched)[place].tolist()
    for answer, on_tasks, bias in zip(watched.answers, watched.accuracy[place].tolist(), biases, strict=True):
        told = shown if answer in WATCHED_EVERYWHERE else (0,)
        yield from ((f"watch/accuracy/task_{task}/{answer}", on_tasks[task]) for task in told if task < len(on_tasks))
        # A task that is not tested on its own has no accuracy.
        earlier = [accuracy for accuracy in on_tasks[:-1] if not math.isnan(accuracy)]
        if earlier:
            yield f"watch/accuracy/earlier_tasks/{answer}", sum(earlier) / len(earlier)
            if not math.isnan(bias):
                yield f"watch/recency_bias/{answer}", bias


def _by_task(watched: Watched | None, tasks: int) -> Iterator[tuple[int, dict[str, float]]]:
    """What was watched of the earlier tasks while one was learned, each at its place on the axis of tasks."""
    if watched is None or watched.task == 0:
        return
    for place, step in enumerate(watched.steps.tolist()):
        values = dict(_watched_values(watched, place, tasks))
        told = {f"by_task/{tag}": value for tag, value in values.items() if "/earlier_tasks/" in tag}
        yield round(PER_TASK * (watched.task + step / max(1, int(watched.steps[-1])))), told


def task_confusion(outputs: Outputs, predictions: Tensor) -> Tensor:
    """The share of each task's samples (rows) that are taken for a class of each task (columns) [T, T].

    Args:
        predictions: classes [N].
    """
    tasks = len(outputs.sizes)
    counts = torch.zeros(tasks, tasks, dtype=torch.float64)
    places = (outputs.tasks, outputs.task_of_class[predictions])
    counts.index_put_(places, torch.ones(len(predictions), dtype=torch.float64), accumulate=True)
    return counts / counts.sum(1, keepdim=True)
