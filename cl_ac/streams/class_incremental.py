"""Classes that arrive one group after the other."""

from cl_ac.data.tasks import task_slices
from cl_ac.streams.stream import Arrival, Labels, Split, Stream


class ClassIncremental(Stream):
    """Each task brings classes of its own, with all their samples.

    How many, say `benchmark.tasks`, `first_task` and `classes_per_task`.
    """

    disjoint = True

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        targets = labels.targets
        return [
            Arrival(((targets >= classes.start) & (targets < classes.stop)).nonzero()[:, 0])
            for classes in task_slices(labels.split.sizes)
        ]

    def length(self, split: Split, domains: int | None = None) -> int:
        return len(split.sizes)

    def num_classes(self, split: Split) -> int:
        return sum(split.sizes)
