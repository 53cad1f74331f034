"""Continual evaluation: what the network says of all tasks seen while it learns the newest (De Lange et al., 2023).

Shapes: A answers, B batch, C classes seen, E exits, K watched points, N watched samples, T tasks seen.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from cl_ac.approach import Approach, TaskApproach
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.data.samples import Samples, concatenate
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError, ResumeError
from cl_ac.memory import rank_in_class
from cl_ac.network import ExitNetwork
from cl_ac.training import EpochReport, Trainer
from cl_ac.watching.stability import Watched, answer_names

# ResNet-32 on 1,024 images of 32 × 32, one thread of an EPYC with AVX-512, November 2026: 2.0 s in batches of 128,
# which stay in the cache, 2.75 s in batches of 512. A GPU idles at such sizes; it gets as many pixels as this.
BATCH_ON_CPU = 128
PIXELS_ON_ACCELERATOR = 1024 * 32 * 32


@dataclass(frozen=True)
class Watch:
    """What is looked at while a task is trained; training itself never changes.

    Args:
        every: steps between two looks at all tasks seen; also as the task before left the network, after 1, 2,
            4, … steps below it, and after the task's last step; 0 looks at nothing.
        samples: images looked at over all tasks of the benchmark; each task keeps its own fixed share, balanced over
            its classes. 0 takes all.
        data: whether they are `test` images or the `validation` images held out of the training data.
        nearest_mean: also watch the nearest class mean at each exit, of means computed anew at every look: of the
            newest classes from their training data, of older ones from the `exemplars` in memory or, which no learner
            could do, from their own training data (`oracle`).
        prototype_samples: images of each class that its mean is taken over, at most; 0 takes all.
        precision: of the looks: as in `training`, or `bfloat16`, which is faster where the processor knows it and may
            change close answers.
        drift: measure after every task how far each exit's features and classifier have moved.
    """

    every: int = 0
    samples: int = 0
    data: Literal["test", "validation"] = "test"
    nearest_mean: Literal["off", "exemplars", "oracle"] = "off"
    prototype_samples: int = 20
    precision: Literal["training", "bfloat16"] = "training"
    drift: bool = False

    def __post_init__(self) -> None:
        for name in ("every", "samples", "prototype_samples"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"watch.{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("samples", "nearest_mean"):
            value = getattr(self, name)
            if not self.every and value not in (0, "off"):
                raise ConfigurationError(f"watch.{name} is {value}, but watch.every is 0, which watches nothing")


def due(step: int, every: int) -> bool:
    """Whether the point after `step` steps of a task is watched: 0, each power of two below `every`, its multiples."""
    return step % every == 0 or (step < every and step & (step - 1) == 0)


def shares(samples: int, counts: Sequence[int]) -> list[int]:
    """How many of `counts[u]` samples of each task are watched: `samples` in all, in proportion; 0 takes all."""
    total = sum(counts)
    if not samples or samples >= total:
        return list(counts)
    ends = [samples * sum(counts[: index + 1]) // total for index in range(len(counts))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def balanced(targets: Tensor, count: int, stream: torch.Generator) -> Tensor:
    """Indices of `count` samples with targets [N], drawn at random with as equal numbers of each class as there are."""
    order = torch.randperm(len(targets), generator=stream)
    return order[rank_in_class(targets[order]).argsort(stable=True)[:count]].sort().values


def tally(predictions: Tensor, targets: Tensor, members: Tensor, membership: Tensor) -> Tensor:
    """How the answers fall on the tasks, in shares of each task's samples.

    Args:
        predictions: classes [A, N].
        targets: classes [N].
        members: 1 where a sample belongs to a task, else 0 [N, T]; a task without samples has NaN.
        membership: 1 where a class was new in a task, else 0 [C, T].
    Returns:
        [A, T, T + 1]: for each answer and each task of the samples, the share taken for each task, NaN for a task
        without new classes; last, the accuracy.
    """
    membership = membership.where(membership.any(0), torch.nan)
    right = (predictions == targets).float()[:, :, None]
    counted = torch.cat([membership[predictions], right], 2)  # [A, N, T + 1]
    return torch.einsum("nu,anv->auv", members, counted) / members.sum(0)[:, None]


class Watcher:
    """Looks at a network during a task without leaving a trace: no random draw, no change of mode or statistics.

    What is watched under the exits' names are the trained heads, as the approach corrects them, also where another
    classifier answers at inference. Nearest means pool features as that classifier does.

    Args:
        watch: what is looked at, and when.
        network: the network in training.
        approach: corrects its logits, and holds the exemplars.
        trainer: knows device, precision and random streams.
        tasks: all tasks of the benchmark.

    Raises:
        ConfigurationError: if a task would have no watched sample.
    """

    def __init__(self, watch: Watch, network: ExitNetwork, approach: Approach, trainer: Trainer, tasks: Sequence[Task]):
        self.watch, self.network, self.approach, self.trainer = watch, network, approach, trainer
        self.shares = shares(watch.samples, [len(self._held_out(task)) for task in tasks])
        missing = [task.index for task, share in zip(tasks, self.shares, strict=True) if task.is_tested and not share]
        if watch.every and missing:
            raise ConfigurationError(
                f"watch.samples is {watch.samples} and watch.data '{watch.data}': task {missing[0] + 1} of "
                f"{len(tasks)} has no image to watch"
            )
        precision = trainer.training.precision if watch.precision == "training" else watch.precision
        self.autocast = partial(trainer.autocast, trainer.with_training(precision=precision))
        pixels = math.prod(network.backbone.image_shape[1:])
        # Where training fits, a look at as many images does.
        on_accelerator = max(PIXELS_ON_ACCELERATOR // pixels, trainer.training.batch_size)
        self.batch = BATCH_ON_CPU if trainer.device.type == "cpu" else on_accelerator
        self.answers = answer_names(len(network), watch.nearest_mean != "off")
        self.points: list[tuple[int, Tensor]] = []

    @property
    def answering(self) -> ExitNetwork:
        """The network that is looked at: the one that would answer now."""
        return self.approach.inference_network(self.network)

    def begin(self, task: Task, start: int) -> None:
        """Takes a first look before anything is changed for `task`; `start` is the run's steps before it.

        So a task begins where the one before ended, whatever its approach does first: reset, imprint, or add rows.
        """
        if self.watch.every:
            self._prepare(task)
            self.seen = Watched.empty(task.index, start, self.answers, task.index + 1)
            if self.network.num_classes:
                self.look(0)

    def grown(self, task: Task) -> None:
        """Prepares to go on, when heads and approach are ready for `task`; here the first task has its first look."""
        if self.watch.every:
            self._choose_prototypes(task)
            if not self.points:
                self.look(0)

    def resume(self, task: Task, seen: Watched | None, step: int) -> None:
        """Prepares to go on inside `task` after `step` steps, with the points that an earlier attempt saw.

        Raises:
            ResumeError: if there are none.
        """
        if self.watch.every:
            if seen is None:
                raise ResumeError(f"the watched points of task {task.index + 1} are missing; start the run again")
            self._prepare(task)
            self.seen = seen.until(step)

    def _prepare(self, task: Task) -> None:
        history, device = task.history(), self.trainer.device
        self.membership = torch.eye(len(history)).repeat_interleave(torch.tensor(task.sizes), 0).to(device)
        watched = [self._watched_samples(each) for each in history]
        self.samples = concatenate(*watched).to(device)
        self.members = torch.eye(len(history)).repeat_interleave(torch.tensor(list(map(len, watched))), 0).to(device)
        self.points = []
        self._choose_prototypes(task)

    def _choose_prototypes(self, task: Task) -> None:
        """Chooses what class means are taken over; classes without, or whose rows are yet to come, are never named."""
        if self.watch.nearest_mean != "off":
            self.prototypes = self._prototypes(task).to(self.trainer.device)
            self.unknown = self.prototypes.targets.bincount(minlength=task.classes_seen) == 0
            self.unknown[self.network.num_classes :] = True

    def step(self, step: int) -> None:
        """Looks at the network after `step` steps of the task, if this point is watched."""
        if self.watch.every and due(step, self.watch.every):
            self.look(step)

    def end_epoch(self, report: EpochReport) -> tuple[Watched, int] | None:
        """All points of the task so far, and how many of them were known before; None where nothing is watched.

        The task's last step is looked at here.
        """
        if not self.watch.every:
            return None
        if report.epoch + 1 == report.epochs and not due(report.steps, self.watch.every):
            self.look(report.steps)
        return self.seen_so_far()

    def seen_so_far(self) -> tuple[Watched, int] | None:
        """As `end_epoch`, where no epoch has ended."""
        if not self.watch.every:
            return None
        known = len(self.seen.steps)
        if self.points:
            steps, tallies = zip(*self.points, strict=True)
            stacked = torch.stack(tallies).cpu()
            self.seen = self.seen.followed_by(torch.tensor(steps), stacked[..., -1], stacked[..., :-1])
            self.points = []
        return self.seen, known

    @torch.no_grad()
    def look(self, step: int) -> None:
        """Adds the point after `step` steps; results stay on the device until the epoch ends."""
        with _evaluating(self.answering):
            means = self._class_means() if self.watch.nearest_mean != "off" else None
            predictions = [self._answer(images, hidden, means) for images, hidden in self._hidden(self.samples)]
        self.points.append(
            (step, tally(torch.cat(predictions, 1), self.samples.targets, self.members, self.membership))
        )

    def _hidden(self, samples: Samples) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Batches of inputs, without augmentation, and what each exit reads of them."""
        for images in cast(Tensor, samples.images).split(self.batch):
            inputs = self.trainer.augmentation.apply(images)
            with self.autocast():
                hidden = self.answering.hidden(inputs)
            yield inputs, hidden

    def _answer(self, images: Tensor, hidden: list[Tensor], means: NearestMean | None) -> Tensor:
        """The class that each answer names [A, B]."""
        with self.autocast():
            if isinstance(self.approach, TaskApproach):
                logits = self.approach.answer(self.answering, images)
            else:
                logits = self.approach.correct(self.answering.classify(hidden))
        predictions = logits.argmax(-1)
        surest = logits.softmax(-1).amax(-1).argmax(0, keepdim=True)
        answers = [predictions, predictions.gather(0, surest)]
        if means is not None:
            scores = means.scores(means.vectors(self.answering, hidden))
            answers.append(scores.masked_fill(self.unknown, -torch.inf).argmax(-1))
        return torch.cat(answers)

    def _class_means(self) -> NearestMean:
        """The class means of the network as it is."""
        reading = self.approach.inference
        means = NearestMean() if reading is None else NearestMean(pooling=reading.pooling, side=reading.side)
        features = (means.vectors(self.answering, hidden) for _, hidden in self._hidden(self.prototypes))
        means.set_means(zip(features, self.prototypes.targets.split(self.batch), strict=True), len(self.membership))
        return means

    def _held_out(self, task: Task) -> Samples:
        return task.test if self.watch.data == "test" else task.validation

    def _watched_samples(self, task: Task) -> Samples:
        """The task's share: the same images whenever they are looked at."""
        samples = self._held_out(task)
        stream = self.trainer.generator("watched samples", task.index)
        return decoded(samples.select(balanced(samples.targets, self.shares[task.index], stream)))

    def _prototypes(self, task: Task) -> Samples:
        """The images that the class means are taken over."""
        if self.watch.nearest_mean == "oracle":
            return concatenate(*map(self._training_samples, task.history()))
        memory = self.approach.memory.samples.without_extras()
        old = memory.targets < task.classes.start
        limit = self.watch.prototype_samples or len(memory)
        exemplars = memory.select(old & (rank_in_class(memory.targets) < limit)) if len(memory) else memory
        return concatenate(self._training_samples(task), exemplars)

    def _training_samples(self, task: Task) -> Samples:
        samples, stream = task.train.without_extras(), self.trainer.generator("prototypes", task.index)
        order = torch.randperm(len(samples), generator=stream)
        limit = self.watch.prototype_samples or len(samples)
        return decoded(samples.select(order[rank_in_class(samples.targets[order]) < limit]))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own mode: parts of a network in training may be frozen."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def decoded(samples: Samples) -> Samples:
    """The same samples as one tensor of images."""
    images = samples.images if samples.resident else samples.images[torch.arange(len(samples))]
    return replace(samples, images=images)
