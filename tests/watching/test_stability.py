"""Stability metrics on hand-made curves."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.watching.stability import (
    Watched,
    accuracy_area,
    anytime_accuracy,
    gap_area,
    minimum_accuracy,
    minimum_accuracy_since_learned,
    recovery,
    recovery_steps,
    relative,
    stability_gap,
    summarise,
    task_recency_bias,
    worst_case_accuracy,
)


def watched(task: int, steps: list[int], *curves: list[float], start: int = 0) -> Watched:
    """One answer whose accuracy on each task follows `curves`; what is wrong is taken for the newest task."""
    accuracy = torch.tensor(curves).T[:, None]  # [K, 1, T]
    tasks = len(curves)
    predicted = torch.diag_embed(accuracy)
    predicted[:, :, torch.arange(tasks), -1] += 1 - accuracy
    return Watched(task, start, torch.tensor(steps), ["final"], accuracy, predicted)


FALLS_AND_COMES_BACK = [0.8, 0.2, 0.6, 0.8, 0.7]
STEPS = [0, 1, 3, 7, 10]
SECOND = watched(1, STEPS, FALLS_AND_COMES_BACK, [0.0, 0.5, 0.7, 0.9, 0.9])
THIRD = watched(2, STEPS, [0.7, 0.5, 0.4, 0.3, 0.3], [0.9, 0.9, 0.6, 0.1, 0.5], [0.0, 0.2, 0.4, 0.6, 1.0], start=10)


def test_gap_and_recovery():
    assert stability_gap(SECOND)[0].tolist() == pytest.approx([0.6])
    assert recovery(SECOND)[0].tolist() == pytest.approx([0.5])
    assert stability_gap(THIRD)[0].tolist() == pytest.approx([0.4, 0.8])
    assert recovery(THIRD)[0].tolist() == pytest.approx([0.0, 0.4])


def test_relative_to_nothing_is_undefined():
    values = relative(torch.tensor([0.2, 0.0]), torch.tensor([0.8, 0.0]))
    assert values[0] == pytest.approx(0.25)
    assert values[1].isnan()


def test_minimum_so_far():
    assert minimum_accuracy(SECOND)[:, 0, 0].tolist() == pytest.approx([0.8, 0.2, 0.2, 0.2, 0.2])
    assert minimum_accuracy(THIRD)[-1, 0].tolist() == pytest.approx([0.3, 0.1])


def test_minimum_since_learned_covers_all_later_tasks():
    first = watched(0, [0, 5], [0.1, 0.9])
    # The first task was lowest while the second was learned; the second can only fall during the third.
    assert minimum_accuracy_since_learned([first, SECOND, THIRD])[0].tolist() == pytest.approx([0.2, 0.1])
    assert minimum_accuracy_since_learned([SECOND, THIRD])[0].tolist() == pytest.approx([0.2, 0.1])
    assert minimum_accuracy_since_learned([first]).shape == (1, 0)


def test_worst_case_accuracy_weighs_the_newest_task_as_one_of_all():
    # 1/3 · 1.0 + (1 − 1/3) · (0.3 + 0.1) / 2
    assert worst_case_accuracy(torch.tensor(1.0), torch.tensor([0.3, 0.1])) == pytest.approx(1 / 3 + 2 / 3 * 0.2)
    assert worst_case_accuracy(torch.tensor(0.7), torch.empty(0)) == pytest.approx(0.7)


def times(curve: list[float], level: float) -> float:
    return recovery_steps(torch.tensor(STEPS), torch.tensor(curve), torch.tensor(level)).item()


def test_recovery_is_the_first_return_after_the_lowest_point():
    assert times(FALLS_AND_COMES_BACK, 0.8) == 7
    assert times([0.8, 0.7, 0.8, 0.1, 0.8], 0.8) == 10
    assert times([0.8, 0.2, 0.6, 0.7, 0.7], 0.8) == math.inf


def test_what_never_fell_needs_no_recovery():
    assert times([0.8, 0.8, 0.9, 0.9, 0.9], 0.8) == 0
    # A curve that only falls is never below its end.
    assert times([0.8, 0.6, 0.5, 0.4, 0.3], 0.3) == 0


def area(curve: list[float], level: float) -> float:
    return gap_area(torch.tensor(STEPS), torch.tensor(curve), torch.tensor(level)).item()


def test_area_ends_at_recovery():
    # Depths 0, 0.6, 0.2, 0 over 1, 2 and 4 steps; the later dip does not count.
    assert area(FALLS_AND_COMES_BACK, 0.8) == pytest.approx(0.3 + 0.8 + 0.4)
    # Never recovers: the last 3 steps count too.
    assert area([0.8, 0.2, 0.6, 0.6, 0.6], 0.8) == pytest.approx(0.3 + 0.8 + 0.8 + 0.6)
    assert area([0.8, 0.9, 0.9, 0.9, 0.9], 0.8) == 0


@given(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5), st.floats(0, 1, width=32))
def test_area_is_bounded_and_no_gap_is_negative(curve, level):
    assert 0 <= area(curve, level) <= max(0.0, level - min(curve)) * STEPS[-1] + 1e-5
    seen = watched(1, STEPS, curve, curve)
    assert (stability_gap(seen) >= 0).all()
    assert (recovery(seen) >= 0).all()
    assert (stability_gap(seen) - recovery(seen)).item() == pytest.approx(curve[0] - curve[-1], abs=1e-6)


def test_recency_bias_is_the_mean_over_earlier_tasks():
    assert task_recency_bias(THIRD)[-1].item() == pytest.approx((0.7 + 0.5) / 2)
    assert task_recency_bias(watched(0, [0, 1], [0.1, 0.2])).isnan().all()


def test_anytime_accuracy_weighs_by_steps():
    first = watched(0, [0, 1, 4], [0.0, 0.4, 0.4])  # 0.2 · 1 + 0.4 · 3
    second = watched(1, [0, 2], [0.4, 0.2], [0.0, 1.0])  # means 0.2 and 0.6 over 2 steps
    assert anytime_accuracy([first, second]).item() == pytest.approx((0.2 + 1.2 + 0.8) / 6)


def test_summary_averages_over_earlier_tasks_and_then_over_tasks():
    summary = summarise([watched(0, [0, 5], [0.1, 0.9]), SECOND, THIRD])
    assert summary.answers == ["final"]
    assert summary.gap.item() == pytest.approx((0.6 + (0.4 + 0.8) / 2) / 2)
    assert summary.minimum_accuracy.item() == pytest.approx((0.2 + 0.2) / 2)
    assert summary.minimum_accuracy_since_learned.item() == pytest.approx(0.15)
    assert summary.worst_case_accuracy.item() == pytest.approx(((0.9 + 0.2) / 2 + (1.0 + 0.4) / 3) / 2)
    assert summary.worst_case_accuracy_since_learned.item() == pytest.approx((1.0 + 0.3) / 3)
    assert summary.recency_bias.item() == pytest.approx((0.3 + 0.6) / 2)
    # Of three curves only the first comes back, after 7 steps.
    assert summary.recovered.item() == pytest.approx((1 + 0) / 2)
    assert summary.recovery_steps.item() == 7
    # 0.63 at step 7; the falling curve is at its end at once, the other at 0.45 at the last step.
    assert summary.settling_steps.item() == pytest.approx((7 + (0 + 10) / 2) / 2)
    assert summary.mean_depth.item() * 10 == pytest.approx(summary.area.item())


def test_summary_leaves_out_what_is_relative_to_nothing():
    nothing = watched(1, [0, 1], [0.0, 0.0], [0.0, 1.0])
    third = watched(2, [0, 1], [0.0, 0.0], [0.8, 0.4], [0.0, 1.0])
    assert summarise([nothing, third]).relative_gap.item() == pytest.approx(0.5)


def test_summary_leaves_out_tasks_that_are_not_tested():
    """A second task that brings known classes again changes nothing but the number of tasks."""
    nan = [math.nan] * len(STEPS)
    between = watched(1, STEPS, FALLS_AND_COMES_BACK, nan)
    between.predicted_task[..., -1] = math.nan
    third = watched(2, STEPS, FALLS_AND_COMES_BACK, nan, [0.0, 0.5, 0.7, 0.9, 0.9])
    third.predicted_task[..., 1] = math.nan
    alone, summary = summarise([SECOND]), summarise([between, third])
    for name in ("minimum_accuracy_since_learned", "worst_case_accuracy_since_learned", "recency_bias", "recovered"):
        torch.testing.assert_close(getattr(summary, name), getattr(alone, name), msg=name)
    for name in ("gap", "recovery_steps", "settling_steps", "area", "minimum_accuracy"):
        torch.testing.assert_close(getattr(summary, name), getattr(alone, name), msg=name)
    assert summary.worst_case_accuracy.item() == pytest.approx((0.2 + (0.9 + 0.2) / 2) / 2)
    assert summarise([between]).recency_bias.isnan().all()


def test_summary_of_one_task():
    summary = summarise([watched(0, [0, 5], [0.1, 0.9])])
    assert summary.gap.isnan().all()
    assert summary.minimum_accuracy_since_learned.isnan().all()
    assert summary.anytime_accuracy.item() == pytest.approx(0.5)


def test_file_holds_everything(tmp_path):
    THIRD.save(tmp_path / "file")
    loaded = Watched.load(tmp_path / "file")
    assert (loaded.task, loaded.start, loaded.answers) == (2, 10, ["final"])
    assert torch.equal(loaded.steps, THIRD.steps)
    assert torch.equal(loaded.accuracy, THIRD.accuracy)
    assert torch.equal(loaded.predicted_task, THIRD.predicted_task)


def test_parts_join_to_the_whole():
    until = THIRD.until(3)
    assert until.steps.tolist() == [0, 1, 3]
    joined = until.followed_by(THIRD.steps[3:], THIRD.accuracy[3:], THIRD.predicted_task[3:])
    assert torch.equal(joined.accuracy, THIRD.accuracy)
    assert torch.equal(joined.predicted_task, THIRD.predicted_task)
    empty = Watched.empty(2, 10, ["final"], 3).followed_by(THIRD.steps, THIRD.accuracy, THIRD.predicted_task)
    assert torch.equal(empty.accuracy, THIRD.accuracy)


def test_the_area_under_the_curve_counts_each_class_seen_the_same():
    first = Watched(0, 0, torch.tensor([0, 10]), ["final"], torch.tensor([[[0.0]], [[1.0]]]), torch.zeros(2, 1, 1, 1))
    accuracy = torch.tensor([[[1.0, 0.0]], [[0.4, 0.8]], [[0.4, 0.8]]])
    second = Watched(1, 10, torch.tensor([0, 5, 10]), ["final"], accuracy, torch.zeros(3, 1, 2, 2))
    # 10 · 0.5 of the first; of the second, with one and three classes: 5 · (0.25 + 0.7) / 2 + 5 · 0.7.
    expected = (5 + 5 * 0.475 + 5 * 0.7) / 20
    assert accuracy_area([first, second], [1, 3]).item() == pytest.approx(expected)


def test_a_task_that_is_not_tested_has_no_part_in_the_area():
    accuracy = torch.tensor([[[0.5, torch.nan]], [[0.7, torch.nan]]])
    watched = Watched(1, 0, torch.tensor([0, 10]), ["final"], accuracy, torch.zeros(2, 1, 2, 2))
    assert accuracy_area([watched], [2, 2]).item() == pytest.approx(0.6)
    assert anytime_accuracy([watched]).item() == pytest.approx(0.6)
