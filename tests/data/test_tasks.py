import torch

from cl_ac.data.samples import Samples
from cl_ac.data.tasks import Task, open_classes, task_slices


def test_a_task_of_a_thousand_knows_all_before_it():
    nothing = Samples(torch.empty(0, 1, 2, 2, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    task = None
    for index in range(1200):
        task = Task(index, (1,) * (index + 1), nothing, nothing, nothing, task)
    assert [each.index for each in task.history()] == list(range(1200))
    assert "previous" not in repr(task)


def test_slices_follow_each_other():
    assert task_slices((2, 3, 1)) == [slice(0, 2), slice(2, 5), slice(5, 6)]


def test_classes_open_to_choice_are_those_new_with_the_task_or_all_so_far():
    rows = open_classes((2, 0, 1))
    assert rows.int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def _task(sizes: tuple[int, ...], targets: list[int], domain: int | None = None) -> Task:
    train = Samples(torch.empty(len(targets), 1, 2, 2, dtype=torch.uint8), torch.tensor(targets))
    return Task(len(sizes) - 1, sizes, train, train, train, domain=domain)


def test_a_task_knows_whether_classes_come_again():
    assert not _task((2, 2), [2, 3]).repeats
    assert _task((2, 2), [2, 1]).repeats
    assert _task((2, 0), [0, 1]).repeats
    assert not _task((2, 0), [0, 1]).is_tested
    assert _task((2, 0), [0, 1], domain=1).is_tested
    assert _task((2, 0, 1), [0]).old_tasks == [slice(0, 2)]


def test_who_is_told_no_boundaries_sees_one_task_of_all_classes():
    task = _task((2, 3), [2]).unannounced
    assert task.is_first
    assert (task.index, task.classes, task.old_tasks) == (1, slice(0, 5), [])
    assert not task.repeats
