"""Tasks without sharp boundaries: classes that come with one task, but a few of whose samples come with others."""

from collections.abc import Callable

import torch
from torch import Tensor

from cl_ac.data.seeding import generator
from cl_ac.streams.class_incremental import ClassIncremental
from cl_ac.streams.dealing import arrivals_of, check_share, cut_at_random, dealt, members, shuffled
from cl_ac.streams.stream import Arrival, Labels, Stream


class IBlurry(Stream):
    """i-Blurry-N-M (Koh et al., 2022): some classes come with one task only, of the others a share comes with any.

    Which classes are which, the seed says, not the order of the benchmark.

    Args:
        disjoint: N as a share of all classes: those that come with one task only.
        blurry: M as a share of the other classes' samples: those that come with any task.
        boundaries: whether approaches are told where a task ends and the next begins.
    """

    def __init__(self, disjoint: float = 0.5, blurry: float = 0.1, boundaries: bool = True):
        super().__init__(boundaries)
        check_share("disjoint", disjoint)
        check_share("blurry", blurry)
        self.disjoint_share, self.blurry = disjoint, blurry

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        parts = i_blurry(labels.targets, labels.split.tasks, self.disjoint_share, self.blurry, seed)
        return arrivals_of(parts, "set fewer benchmark.tasks or a larger stream.blurry")


class SiBlurry(IBlurry):
    """Si-Blurry (Moon et al., 2023): as `IBlurry`, but how many classes and samples a task has is random.

    Args:
        disjoint: share of the classes that come with one task only.
        blurry: share of the other classes' samples that come with any task.
        boundaries: whether approaches are told where a task ends and the next begins.
    """

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        parts = si_blurry(labels.targets, labels.split.tasks, self.disjoint_share, self.blurry, seed)
        return arrivals_of(parts, "set fewer benchmark.tasks, a larger stream.blurry or another seed")


class LinearDecay(ClassIncremental):
    """Tasks that fade into each other (Zeno et al., 2021): their shares of what arrives fall and rise linearly.

    Args:
        overlap: how long two tasks come together around their boundary, as a share of the length of a task: 2/β, the
            paper's β is 4.
        boundaries: whether approaches are told where one task is as likely as the next.
    """

    disjoint = False

    def __init__(self, overlap: float = 0.5, boundaries: bool = True):
        super().__init__(boundaries)
        check_share("overlap", overlap)
        self.overlap = overlap

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        sharp = super().arrivals(labels, seed)
        samples = torch.cat([arrival.train for arrival in sharp])
        groups = torch.arange(len(sharp)).repeat_interleave(torch.tensor([len(arrival.train) for arrival in sharp]))
        parts = [samples[part] for part in linear_decay(groups, len(sharp), self.overlap, seed)]
        return arrivals_of(parts, "set fewer benchmark.tasks or a smaller stream.overlap")


def i_blurry(targets: Tensor, tasks: int, disjoint: float, blurry: float, seed: int) -> list[Tensor]:
    """i-Blurry-N-M (Koh et al., 2022): N % of the classes are in one task only, M % of the samples of others in any.

    Classes of both kinds are shared equally among the tasks. Of each task's samples of blurry classes M % are taken
    out, and what is taken out is dealt to all tasks in equal parts. In the authors' code, classes and samples that do
    not divide by the number of tasks are dropped, and those taken out are the first of the files; here every sample
    comes once, and chance chooses.

    Args:
        targets: int64 [N], the class of each sample.
        tasks: number of tasks T.
        disjoint: N as a share, from 0 to 1.
        blurry: M as a share, from 0 to 1.
        seed: of all draws.
    Returns:
        T tensors of indices into `targets`, in the order of arrival; together they hold each sample once.
    """
    stream = generator(seed, "i-Blurry")
    return _blurred(targets, tasks, disjoint, blurry, dealt, stream)


def si_blurry(targets: Tensor, tasks: int, disjoint: float, blurry: float, seed: int) -> list[Tensor]:
    """Si-Blurry (Moon et al., 2023): as `i_blurry`, but how many classes and samples each task has is random.

    Cut points between tasks are uniform in the lists of disjoint classes, of blurry classes, and of samples that are
    taken out. So a task may have no classes of a kind, or no samples at all.

    Args and result are those of `i_blurry`.
    """
    stream = generator(seed, "Si-Blurry")

    def cut(values: Tensor, parts: int) -> list[Tensor]:
        return cut_at_random(values, parts, stream)

    return _blurred(targets, tasks, disjoint, blurry, cut, stream)


def _blurred(
    targets: Tensor,
    tasks: int,
    disjoint: float,
    blurry: float,
    share: Callable[[Tensor, int], list[Tensor]],
    stream: torch.Generator,
) -> list[Tensor]:
    of_class = members(targets, stream)
    classes = torch.randperm(len(of_class), generator=stream)
    count = round(disjoint * len(classes))

    def samples(part: Tensor) -> Tensor:
        return torch.cat([targets.new_empty(0), *(of_class[label] for label in part.tolist())])

    own = [samples(part) for part in share(classes[:count], tasks)]
    pool = []
    for task, part in enumerate(share(classes[count:], tasks)):
        mixed = shuffled(samples(part), stream)
        taken = round(blurry * len(mixed))
        pool.append(mixed[:taken])
        own[task] = torch.cat([own[task], mixed[taken:]])
    foreign = share(shuffled(torch.cat(pool), stream), tasks)
    return [shuffled(torch.cat(pair), stream) for pair in zip(own, foreign, strict=True)]


def linear_decay(groups: Tensor, tasks: int, overlap: float, seed: int) -> list[Tensor]:
    """Tasks that fade into each other linearly (Zeno et al., 2021): at each time, `decay_shares` of each.

    Each task takes one unit of time. With `overlap` o, around the boundary of two tasks the share of the earlier one
    falls, and that of the later one rises, over o units; o is 2/β in the paper, whose β is 4. The authors draw samples
    with repetition; here each comes once, at a time that is drawn.

    Args:
        groups: int64 [N], the task of each sample if boundaries were sharp, from 0 to T - 1.
        tasks: number of tasks T.
        overlap: from 0, sharp boundaries, to 1, no time at which only one task is seen but the first and last half.
        seed: of all draws.
    Returns:
        T tensors of indices into `groups`, those of samples that arrive in each unit of time, in the order of arrival.
    """
    stream = generator(seed, "linear decay")
    uniform, ramp = torch.rand(2, len(groups), generator=stream, dtype=torch.float64)
    # A uniform time within the task and a uniform shift have a density that rises, stays and falls linearly. What
    # would come before the first or after the last task is mirrored, which keeps both at full share up to the end.
    times = (groups + uniform + overlap * (ramp - 0.5)).abs()
    times = tasks - (tasks - times).abs()
    order = times.argsort()
    arrival = times[order].long().clamp(max=tasks - 1)
    return [order[arrival == task] for task in range(tasks)]


def decay_shares(times: Tensor, tasks: int, overlap: float) -> Tensor:
    """The share of each task's samples at `times`, where every task takes one unit of time.

    Args:
        times: float [S], from 0 to T.
        tasks: number of tasks T.
        overlap: above 0; see `linear_decay`.
    Returns:
        [S, T]; each row sums to 1.
    """
    starts = torch.arange(tasks, dtype=times.dtype)
    rising = ((times[:, None] - starts) / overlap + 0.5).clamp(0, 1)
    rising[:, 0] = 1
    falling = rising.roll(-1, 1)
    falling[:, -1] = 0
    return rising - falling
