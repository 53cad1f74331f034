import torch

from cl_ac.data.samples import Samples
from cl_ac.data.tasks import Task, task_slices


def test_a_task_of_a_thousand_knows_all_before_it():
    nothing = Samples(torch.empty(0, 1, 2, 2, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    task = None
    for index in range(1200):
        task = Task(index, (1,) * (index + 1), nothing, nothing, nothing, task)
    assert [each.index for each in task.history()] == list(range(1200))
    assert "previous" not in repr(task)


def test_slices_follow_each_other():
    assert task_slices((2, 3, 1)) == [slice(0, 2), slice(2, 5), slice(5, 6)]
