"""Avalanche's metrics as an oracle for ours."""

import pytest
import torch

from cl_ac.evaluation import ExitCosts, Outputs, backward_transfer, cube, exit_accuracy

metrics = pytest.importorskip("avalanche.evaluation.metrics")


def outputs_after(task: int) -> Outputs:
    stream = torch.Generator().manual_seed(task)
    targets = torch.arange(2 * task + 2).repeat_interleave(7)
    logits = torch.randn(1, len(targets), 2 * task + 2, generator=stream)
    logits[0, torch.arange(len(targets)), targets] += 1.0
    return Outputs(logits, targets, targets // 2, (2,) * (task + 1), ExitCosts([1.0], 1.0))


def test_accuracy_and_forgetting_agree_with_avalanche():
    rows, forgetting = [], metrics.forgetting_bwt.Forgetting()
    for task in range(4):
        outputs = outputs_after(task)
        row = exit_accuracy(outputs)[:, 0]
        for on_task in range(task + 1):
            members = outputs.tasks == on_task
            accuracy = metrics.accuracy.Accuracy()
            accuracy.update(outputs.logits[0, members], outputs.targets[members])
            assert row[on_task].item() == pytest.approx(accuracy.result())
            forgetting.update(on_task, row[on_task].item(), initial=on_task == task)
        rows.append(row)
    # Avalanche's forgetting is from when a task was learned, which is our backward transfer with the other sign.
    expected = {task: -change for task, change in enumerate(backward_transfer(cube(rows)).tolist())}
    assert forgetting.result() == pytest.approx(expected)
