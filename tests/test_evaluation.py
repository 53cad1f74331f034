from dataclasses import replace

import pytest
import torch

from cl_ac import evaluation
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.recording.records import Record

NAN = torch.nan
# Three tasks: learned to 0.9, 0.8 and 0.7; the first rises once before it is forgotten.
CUBE = torch.tensor([[0.9, NAN, NAN], [0.95, 0.8, NAN], [0.5, 0.6, 0.7]], dtype=torch.float64)


def outputs() -> Outputs:
    """Two exits, four samples, classes 0–1 of task 0 and class 2 of task 1."""
    first = torch.tensor([[2.0, 0, 0], [0, 0, 5], [0, 1, 0], [0, 0, 1]])
    final = torch.tensor([[0, 1.0, 0], [0, 3, 0], [0, 0, 9], [0, 0, 4]])
    return Outputs(
        torch.stack([first, final]),
        torch.tensor([0, 1, 1, 2]),
        torch.tensor([0, 0, 0, 1]),
        (2, 1),
        ExitCosts([40.0, 120.0], 100.0),
    )


@pytest.mark.parametrize("parameters", [None, 12_345_678_901])
def test_costs_are_read_alone(tmp_path, parameters):
    cost = ExitCosts([40.0, 120.0], 100.0, parameters)
    replace(outputs(), cost=cost).save(tmp_path / "outputs.safetensors")
    assert ExitCosts.load(tmp_path / "outputs.safetensors") == cost


def test_exit_accuracy_is_per_task_and_exit():
    expected = torch.tensor([[2 / 3, 1 / 3], [1, 1]], dtype=torch.float64)
    torch.testing.assert_close(evaluation.exit_accuracy(outputs()), expected)


def test_known_task_leaves_out_the_classes_of_other_tasks():
    known = evaluation.exit_accuracy(outputs().task_incremental)
    # First exit: sample 1 has equal logits for classes 0 and 1 and argmax takes class 0.
    torch.testing.assert_close(known, torch.tensor([[2 / 3, 1 / 3], [1, 1]], dtype=torch.float64))


def test_most_confident_exit_answers():
    assert evaluation.most_confident(outputs()).tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(evaluation.ac_accuracy(outputs()), torch.tensor([1 / 3, 1.0], dtype=torch.float64))


def test_cube_is_nan_above_the_diagonal():
    built = evaluation.cube([CUBE[0, :1], CUBE[1, :2], CUBE[2]])
    torch.testing.assert_close(built, CUBE, equal_nan=True)


def test_average_is_unweighted_or_weighted_by_classes():
    torch.testing.assert_close(evaluation.average(CUBE[2]), torch.tensor(0.6, dtype=torch.float64))
    weighted = evaluation.average(CUBE[2], [50, 10, 40])
    torch.testing.assert_close(weighted, torch.tensor(0.25 + 0.06 + 0.28, dtype=torch.float64))


def test_average_incremental_accuracy():
    expected = (0.9 + (0.95 + 0.8) / 2 + 0.6) / 3
    torch.testing.assert_close(evaluation.average_incremental(CUBE), torch.tensor(expected, dtype=torch.float64))


def test_published_incremental_accuracy_is_over_all_classes_seen():
    first, second = 0.9, (3 * 0.95 + 0.8) / 4
    weighted = evaluation.average_incremental(CUBE[:2, :2], (3, 1))
    assert weighted.item() == pytest.approx((first + second) / 2)


def test_forgetting_is_from_the_best_and_backward_transfer_from_the_first():
    torch.testing.assert_close(evaluation.forgetting(CUBE), torch.tensor([0.45, 0.2], dtype=torch.float64))
    torch.testing.assert_close(evaluation.backward_transfer(CUBE), torch.tensor([-0.4, -0.2], dtype=torch.float64))


def test_one_task_has_nothing_to_forget():
    assert evaluation.forgetting(CUBE[:1, :1]).shape == (0,)
    assert evaluation.backward_transfer(CUBE[:1, :1]).shape == (0,)


def test_metrics_keep_the_exit_axis():
    cube = torch.stack([CUBE, CUBE - 0.1], -1)
    torch.testing.assert_close(evaluation.forgetting(cube)[:, 1], evaluation.forgetting(CUBE - 0.1))
    assert evaluation.average_incremental(cube).shape == (2,)


def test_outputs_survive_saving_bit_for_bit(tmp_path):
    before = outputs()
    before.save(tmp_path / "outputs.safetensors")
    after = Outputs.load(tmp_path / "outputs.safetensors")
    assert after.cost == ExitCosts.load(tmp_path / "outputs.safetensors") == before.cost
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.targets, after.targets)
    assert torch.equal(before.tasks, after.tasks)
    assert (before.sizes, before.cost) == (after.sizes, after.cost)


def test_a_run_with_results_of_its_last_task_alone():
    accuracies = evaluation.cube([torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)])
    assert accuracies.shape == (3, 3)
    assert accuracies[:2].isnan().all()
    assert accuracies[2].tolist() == [0.2, 0.4, 0.6]
    assert evaluation.forgetting(accuracies).isnan().all()
    assert evaluation.average_incremental(accuracies).isnan()


def domain_outputs() -> Outputs:
    """Two classes in three domains; the final exit is right on one of two, both and none."""
    logits = torch.tensor([[[1.0, 0], [1, 0], [1, 0], [0, 1], [0, 1], [1, 0]]])
    targets, tasks = torch.tensor([0, 1] * 3), torch.tensor([0, 0, 1, 1, 2, 2])
    return Outputs(logits, targets, tasks, (2, 0, 0), ExitCosts([1.0], 1.0))


def test_all_classes_are_open_in_a_domain():
    outputs = domain_outputs()
    assert evaluation.exit_accuracy(outputs)[:, 0].tolist() == [0.5, 1, 0]
    assert torch.equal(outputs.task_incremental.logits, outputs.logits)
    assert evaluation.average(evaluation.exit_accuracy(outputs), outputs.tested_classes).tolist() == [0.5], (
        "every domain has all classes"
    )


def test_all_classes_so_far_are_open_in_a_domain_that_brings_new_ones_too():
    outputs = Outputs(
        torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0.5]]]),
        torch.tensor([0, 1, 0, 2]),
        torch.tensor([0, 0, 1, 1]),
        (2, 1),
        ExitCosts([1.0], 1.0),
    )
    known = evaluation.exit_accuracy(outputs.task_incremental)
    assert known[:, 0].tolist() == [1, 0.5]
    assert outputs.tested_classes == [2, 3]
    assert evaluation.average(known, outputs.tested_classes).item() == pytest.approx((2 * 1 + 3 * 0.5) / 5)
    record = Record.of(1, outputs, 0.0)
    assert Record.parse(record.line()).tested_classes == [2, 3]
    assert Record.of(1, replace(outputs, tasks=torch.tensor([0, 0, 0, 1])), 0.0).tested is None


def test_a_task_that_is_not_tested_is_left_out_of_means():
    row = torch.tensor([0.4, torch.nan, 1.0], dtype=torch.float64)
    assert evaluation.average(row).item() == pytest.approx(0.7)
    assert evaluation.average(row, [3, 0, 1]).item() == pytest.approx((3 * 0.4 + 1.0) / 4)
    square = evaluation.cube([row[:1], row[:2], row])
    assert evaluation.average_incremental(square).item() == pytest.approx((0.4 + 0.4 + 0.7) / 3)
    assert evaluation.average_incremental(square, [3, 0, 1]).item() == pytest.approx((0.4 + 0.4 + 0.55) / 3)
    assert evaluation.average(torch.stack([row, row], 1)).tolist() == pytest.approx([0.7, 0.7])
