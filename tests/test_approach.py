import torch

from cl_ac.approach import Approach, Batch, ExitNetwork, Task
from cl_ac.losses import cross_entropy
from cl_ac.memory import Memory
from cl_ac.training import Trainer


class Forgetful(Approach):
    """Its author wrote an `end_task` and thought of nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.exemplars_at_end: list[int] = []

    def loss(self, network: ExitNetwork, batch: Batch) -> torch.Tensor:
        return cross_entropy(network(batch.images), batch.targets, self.trained_classes(batch.task))

    def end_task(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        self.exemplars_at_end.append(len(self.memory))


def test_exemplars_are_stored_whatever_end_task_does(toy_benchmark, toy_network, toy_learn):
    approach = Forgetful()
    approach.memory = Memory(per_class=2)
    toy_learn(approach, toy_network(sizes=()), toy_benchmark().tasks[:2])
    assert approach.exemplars_at_end == [4, 8]
    assert approach.memory.targets.bincount().tolist() == [2, 2, 2, 2]


def test_which_rows_learn_is_apart_from_which_classes_are_scored(toy_benchmark):
    class FrozenRows(Forgetful):
        trains_old_rows = False

    task = toy_benchmark()[1]
    for approach, rows in ((Forgetful(), True), (FrozenRows(), False)):
        assert approach.trained_classes(task) == task.classes
        approach.memory = Memory(per_class=1)
        approach.memory.store(task.previous.train)
        assert approach.trained_classes(task) == task.seen_classes
        assert approach.trains_old_rows is rows
