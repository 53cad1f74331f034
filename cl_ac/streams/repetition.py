"""Classes that come again (class-incremental learning with repetition, Hemati et al., 2023)."""

import torch
from torch import Tensor

from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.streams.dealing import arrivals_of, check_share, dealt, members, shuffled
from cl_ac.streams.stream import Arrival, Labels, Split, Stream


class SlotRepetition(Stream):
    """Each task has as many slots, each for a part of a class; classes come again, samples do not.

    Slot-based class-incremental learning with repetition (Hemati et al., 2023).

    Args:
        classes: slots, and classes, of each task.
        boundaries: whether approaches are told where a task ends and the next begins.
    """

    def __init__(self, classes: int = 5, boundaries: bool = True):
        super().__init__(boundaries)
        if classes < 1:
            raise ConfigurationError(f"stream.classes is {classes}; it must be at least 1")
        self.classes = classes

    def length(self, split: Split, domains: int | None = None) -> int:
        tasks = super().length(split)
        check_slots(tasks, self.classes, split.num_classes)
        return tasks

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        return [Arrival(part) for part in slots(labels.targets, labels.split.tasks, self.classes, seed)]


class SampledRepetition(Stream):
    """Classes come first at a random task, and then again by chance; samples come again too.

    Sampling-based class-incremental learning with repetition (Hemati et al., 2023).

    Args:
        samples: training images of each task.
        first: how much rarer it is, task by task, that a class comes for the first time: 0 makes all tasks as likely.
        recurrence: probability that a class comes again with a task; of the first of them, where `exponent` is above 0.
        exponent: the n-th class, in random order, comes again with `recurrence` / n^`exponent`.
        boundaries: whether approaches are told where a task ends and the next begins.
    """

    def __init__(
        self,
        samples: int = 500,
        first: float = 0.2,
        recurrence: float = 0.2,
        exponent: float = 0.0,
        boundaries: bool = True,
    ):
        super().__init__(boundaries)
        if samples < 1:
            raise ConfigurationError(f"stream.samples is {samples}; it must be at least 1")
        if not 0 <= first < 1:
            raise ConfigurationError(f"stream.first is {first:g}; it must be from 0 to below 1")
        check_share("recurrence", recurrence)
        if exponent < 0:
            raise ConfigurationError(f"stream.exponent is {exponent:g}; it must be at least 0")
        self.samples, self.first, self.recurrence, self.exponent = samples, first, recurrence, exponent

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        options = self.samples, self.first, self.recurrence, self.exponent
        return arrivals_of(sampled(labels.targets, labels.split.tasks, *options, seed), "set a larger stream.samples")


def check_slots(tasks: int, classes: int, number: int) -> None:
    """Raises a `ConfigurationError` if `number` classes cannot fill `classes` different slots in each of `tasks`."""
    if classes > number:
        raise ConfigurationError(f"stream.classes is {classes}, but there are only {number} classes")
    if tasks * classes < number:
        raise ConfigurationError(
            f"benchmark.tasks is {tasks} and stream.classes {classes}, which makes {tasks * classes} slots; "
            f"{number} classes need at least as many"
        )


def slots(targets: Tensor, tasks: int, classes: int, seed: int) -> list[Tensor]:
    """Slot-based repetition: every task has slots for K classes, and each sample comes once.

    T · K slots are shared equally among all classes, by chance where they do not divide, and a class's samples equally
    among its slots. Tasks choose from the last to the first, each K different classes at random. In the authors' code,
    first tasks may get a class twice, and samples that do not divide are dropped.

    Args:
        targets: int64 [N], the class of each sample.
        tasks: number of tasks T.
        classes: classes of each task K.
        seed: of all draws.
    Returns:
        T tensors of indices into `targets`.
    Raises:
        ConfigurationError: if there are fewer classes than K, fewer slots than classes, or a class has fewer samples
            than slots.
    """
    stream = generator(seed, "slots")
    of_class = members(targets, stream)
    number, total = len(of_class), tasks * classes
    check_slots(tasks, classes, number)
    left = torch.full((number,), total // number)
    left[torch.randperm(number, generator=stream)[: total % number]] += 1
    for label, samples in enumerate(of_class):
        if len(samples) < left[label]:
            raise ConfigurationError(
                f"benchmark.tasks is {tasks} and stream.classes {classes}, which makes {int(left[label])} slots for a "
                f"class that has only {len(samples)} training images"
            )
    parts = [dealt(samples, int(count)) for samples, count in zip(of_class, left, strict=True)]
    chosen = []
    for after in range(tasks, 0, -1):
        # A class with as many slots as there are tasks left must be in each of them.
        preference = torch.rand(number, generator=stream) + (left == after).float() - 2 * (left == 0).float()
        present = preference.topk(classes).indices
        left[present] -= 1
        chosen.append(present.tolist())
    return [shuffled(torch.cat([parts[label].pop() for label in present]), stream) for present in reversed(chosen)]


def sampled(
    targets: Tensor, tasks: int, samples: int, first: float, recurrence: float, exponent: float, seed: int
) -> list[Tensor]:
    """Sampling-based repetition: a class comes first at a random task, and then again by chance.

    The probability that a class first comes at task t is proportional to (1 - `first`)^t, a geometric distribution cut
    off at the last task. After that, the class of rank r (from 1, random) comes at each task with the probability
    `recurrence` / r^`exponent`. All classes that are present give equally many samples, drawn anew at each task, so
    that samples come again too. Where no class would come, the authors leave the task out; here one does all the same:
    in the first task any, later one of those that have come.

    Args:
        targets: int64 [N], the class of each sample.
        tasks: number of tasks T.
        samples: samples of each task S; a class that has fewer than its share gives all.
        first: from 0, any task is as likely, to below 1.
        recurrence: from 0 to 1.
        exponent: 0 lets every class come again as often.
        seed: of all draws.
    Returns:
        T tensors of indices into `targets`.
    Raises:
        ConfigurationError: if S samples are fewer than the classes that come in a task.
    """
    stream = generator(seed, "sampled repetition")
    of_class = members(targets, stream)
    number = len(of_class)
    starts = torch.multinomial((1 - first) ** torch.arange(tasks).double(), number, True, generator=stream)
    if starts.min() > 0:
        starts[torch.randint(number, (), generator=stream)] = 0
    ranks = 1 + torch.randperm(number, generator=stream)
    again = torch.rand(tasks, number, generator=stream) < recurrence / ranks.double() ** exponent
    times = torch.arange(tasks)[:, None]
    present = (times == starts) | (again & (times > starts))
    for task in (~present.any(1)).nonzero()[:, 0].tolist():
        known = (starts < task).nonzero()[:, 0]
        present[task, known[torch.randint(len(known), (), generator=stream)]] = True
    return [_equally(of_class, here.nonzero()[:, 0], samples, stream) for here in present]


def _equally(of_class: list[Tensor], present: Tensor, samples: int, stream: torch.Generator) -> Tensor:
    """`samples` samples of the classes `present`, by chance one more of some where they do not divide."""
    number = len(present)
    if samples < number:
        raise ConfigurationError(
            f"stream.samples is {samples}, but a task has {number} classes, each of which needs at least one"
        )
    quotas = [len(part) for part in dealt(torch.arange(samples), number)]
    drawn = [
        shuffled(of_class[label], stream)[:quota]
        for label, quota in zip(shuffled(present, stream).tolist(), quotas, strict=True)
    ]
    return shuffled(torch.cat(drawn), stream)
