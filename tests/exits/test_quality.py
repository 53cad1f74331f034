from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.exits.calibration import with_temperature
from cl_ac.exits.curves import accuracy_at_budgets, cost_accuracy, quantile_thresholds
from cl_ac.exits.quality import (
    auroc,
    brier,
    calibration_errors,
    eefp,
    error_repair,
    failure_prediction,
    groups,
    hindsight_improvability,
    leaving_is_right,
    mean_defined,
    overthinking,
    quality,
    reliability,
)
from cl_ac.exits.rules import Confidence, Margin, scores

# Three exits, five samples.
CORRECT = torch.tensor([[1, 0, 0, 1, 0], [1, 1, 0, 1, 0], [1, 0, 0, 0, 1]]).bool()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_auroc_is_that_of_sklearn(pairs):
    values, labels = torch.tensor([v for v, _ in pairs]), torch.tensor([label for _, label in pairs])
    if labels.all() or not labels.any():
        assert auroc(values, labels) is None
    else:
        assert auroc(values, labels) == pytest.approx(roc_auc_score(labels, values))


def test_auroc_by_hand():
    # Of the four pairs of a positive and a negative, two are won and one is tied.
    assert auroc(torch.tensor([0.9, 0.5, 0.5, 0.7]), torch.tensor([True, True, False, False])) == 2.5 / 4


def test_leaving_is_right_for_right_answers_and_lost_samples():
    assert leaving_is_right(CORRECT).tolist() == [
        [True, False, True, True, False],
        [True, True, True, True, False],
        [True] * 5,
    ]


def test_eefp_is_the_auroc_of_its_definition(random_outputs):
    outputs = random_outputs(2, exits=4)
    confidences, correct = outputs.confidences, outputs.correct
    values = eefp(outputs)
    for index in range(3):
        labels = [
            bool(correct[index, n]) or not any(correct[later, n] for later in range(index + 1, 4)) for n in range(200)
        ]
        assert values[index] == pytest.approx(roc_auc_score(labels, confidences[index].double()))
    assert values[3] is None
    assert quality(outputs).mean_eefp == pytest.approx(sum(values[:3]) / 3)
    plain = failure_prediction(outputs)
    assert plain[3] == pytest.approx(roc_auc_score(correct[3], confidences[3].double()))
    assert eefp(outputs, Margin())[0] != values[0]


def test_undefined_is_none(random_outputs):
    assert eefp(random_outputs(0, exits=1)) == [None]
    assert mean_defined([None, 0.5, 0.7]) == pytest.approx(0.6)
    assert mean_defined([None]) is None
    everything_right = replace(random_outputs(0), targets=torch.zeros(200, dtype=torch.int64))
    everything_right.logits[..., 0] = 50.0
    result = quality(everything_right)
    assert result.eefp == [None] * 4
    assert result.failure_prediction == [None] * 4
    assert result.hindsight == [None] * 4
    assert result.overthinking.per_exit == [None] * 3


def test_reliability_by_hand():
    confidences = torch.tensor([0.0, 0.5, 0.5, 0.55, 1.0])
    diagram = reliability(confidences, torch.tensor([False, True, False, True, True]), bins=2)
    assert diagram.share.tolist() == pytest.approx([0.6, 0.4])
    assert diagram.confidence.tolist() == pytest.approx([1 / 3, 0.775])
    assert diagram.accuracy.tolist() == pytest.approx([1 / 3, 1.0])
    assert diagram.error == pytest.approx(0.4 * 0.225)
    # Empty bins are not numbers, and count for nothing.
    assert reliability(confidences, torch.ones(5).bool(), 15).confidence.isnan().any()


def test_honest_confidences_have_no_calibration_error(random_outputs):
    outputs = random_outputs(1, exits=1, samples=40_000)
    stream = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(outputs.probabilities[0], 1, generator=stream)[:, 0]
    honest = replace(outputs, targets=drawn)
    assert calibration_errors(honest)[0] < 0.01
    assert calibration_errors(with_temperature(honest, torch.tensor([0.3])))[0] > 0.1


def test_brier_by_hand():
    logits = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]]).log()
    targets = torch.tensor([0, 1])
    value = brier(Outputs(logits, targets, targets, (3,), ExitCosts([1.0], 1.0)))[0]
    assert value == pytest.approx(((0.25 + 0.09 + 0.04) + (0.01 + 0.81 + 0.64)) / 2)


def test_overthinking_by_hand():
    result = overthinking(CORRECT)
    # The final exit is right on samples 0 and 4; earlier ones also on 1 and 3.
    assert result.share == pytest.approx(0.4)
    assert result.relative == pytest.approx(1.0)
    assert result.per_exit == [0.5, 1.0]
    assert result.unique == [0.0, 0.5]


def test_hindsight_and_repair_by_hand():
    assert hindsight_improvability(CORRECT) == [None, 0.0, pytest.approx(2 / 3)]
    repair = error_repair(CORRECT)
    assert repair.diag().tolist() == [0, 0, 0]
    assert repair[0].tolist() == pytest.approx([0, 1 / 3, 1 / 3])
    assert repair[1].tolist() == pytest.approx([0, 0, 1 / 2])
    assert repair[2].tolist() == pytest.approx([1 / 3, 2 / 3, 0])


def test_groups_split_by_task_and_by_age(random_outputs):
    split = groups(random_outputs(1, sizes=(2, 1, 2)))
    assert list(split) == ["all", "task_0", "task_1", "task_2", "old", "new"]
    counts = {name: len(outputs.targets) for name, outputs in split.items()}
    assert counts["task_0"] + counts["task_1"] == counts["old"]
    assert counts["old"] + counts["new"] == counts["all"] == 200
    assert set(split["new"].targets.tolist()) == {3, 4}
    assert list(groups(random_outputs(1, sizes=(5,)))) == ["all"]


def curve_points(outputs: Outputs, per_exit: bool = False) -> list[float]:
    rule = Confidence(fallback="last")
    thresholds = quantile_thresholds(scores(rule, outputs), per_exit=per_exit)
    return accuracy_at_budgets(cost_accuracy(outputs, rule, thresholds), (0.5, 0.75))


def test_a_common_temperature_moves_calibration_but_not_eefp(random_outputs):
    """Calibration error is blind to what an early exit needs; EEFP is not fooled."""
    outputs = random_outputs(0, exits=5, samples=4000, sizes=(5, 5))
    sharp, flat = (with_temperature(outputs, torch.full((5,), value)) for value in (0.7, 2.5))
    assert abs(calibration_errors(sharp)[2] - calibration_errors(flat)[2]) > 0.1
    assert quality(sharp).mean_eefp == pytest.approx(quality(flat).mean_eefp, abs=0.03)
    assert curve_points(sharp) == pytest.approx(curve_points(flat), abs=0.02)


def test_eefp_cannot_see_thresholds_that_do_not_fit_together(random_outputs):
    """Early exits too sure and late ones too unsure: the ranks stay, one threshold for all fails, quantiles do not."""
    outputs = random_outputs(0, exits=5, samples=4000, sizes=(5, 5))
    skewed = with_temperature(outputs, torch.tensor([0.3, 0.6, 1.0, 2.0, 4.0]))
    assert quality(skewed).mean_eefp == pytest.approx(quality(outputs).mean_eefp, abs=0.03)
    assert curve_points(skewed)[1] < curve_points(outputs)[1] - 0.02
    assert curve_points(skewed, per_exit=True) == pytest.approx(curve_points(outputs, per_exit=True), abs=0.03)
