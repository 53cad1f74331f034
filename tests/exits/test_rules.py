import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.exits.rules import (
    TOP,
    Answer,
    Confidence,
    Entropy,
    LearnedScorer,
    Margin,
    Patience,
    decide,
    exit_features,
    exit_of,
    scores,
)


def scorer(exits: int, seed: int = 0) -> LearnedScorer:
    return LearnedScorer(weights=torch.randn(exits, TOP + 4, generator=torch.Generator().manual_seed(seed)))


def rules(exits: int):
    return [Confidence(), Entropy(), Margin(), Patience(), scorer(exits)]


def outputs_of(probabilities: list[list[list[float]]]) -> Outputs:
    """Outputs [E, N, C] with given probabilities; every sample is of class 0."""
    logits = torch.tensor(probabilities).log()
    exits, samples, classes = logits.shape
    targets = torch.zeros(samples, dtype=torch.int64)
    return Outputs(
        logits, targets, targets, (classes,), ExitCosts([10.0 * (i + 1) for i in range(exits)], 10.0 * exits)
    )


def test_scores_by_hand():
    outputs = outputs_of([[[0.5, 0.3, 0.2]], [[0.7, 0.2, 0.1]], [[0.1, 0.8, 0.1]], [[0.2, 0.6, 0.2]]])
    assert scores(Confidence(), outputs)[:, 0].tolist() == pytest.approx([0.5, 0.7, 0.8, 0.6])
    assert scores(Margin(), outputs)[:, 0].tolist() == pytest.approx([0.2, 0.5, 0.7, 0.4])
    entropy = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2)) / math.log(3)
    assert scores(Entropy(), outputs)[0, 0].item() == pytest.approx(1 - entropy)
    # The third exit changes the answer, and the fourth agrees with it.
    assert scores(Patience(), outputs)[:, 0].tolist() == [1, 2, 1, 2]


def test_features_of_the_learned_scorer_by_hand():
    first, state = exit_features(Answer.of(torch.tensor([[0.7, 0.2, 0.1]]).log()), ())
    assert first[0].tolist() == pytest.approx(
        [math.log(0.7), math.log(0.2), math.log(0.1), -20, -20, 0.729847, 0.5, 0], abs=1e-5
    )
    again, _ = exit_features(Answer.of(torch.tensor([[0.6, 0.3, 0.1]]).log()), state)
    other, _ = exit_features(Answer.of(torch.tensor([[0.3, 0.6, 0.1]]).log()), state)
    assert (again[0, -1], other[0, -1]) == (1, 0)


def test_learned_scorer_by_hand():
    weights = torch.zeros(2, TOP + 4)
    weights[0, TOP + 1], weights[0, -1] = 2.0, -1.0  # exit 0 looks at the margin, exit 1 at agreement
    weights[1, TOP + 2] = 3.0
    given_scores = scores(LearnedScorer(weights=weights), outputs_of([[[0.7, 0.2, 0.1]], [[0.6, 0.3, 0.1]]]))
    assert given_scores[:, 0].tolist() == pytest.approx([1 / (1 + math.exp(0)), 1 / (1 + math.exp(-3))])


def test_first_sure_exit_answers_and_costs():
    outputs = outputs_of([[[0.6, 0.4], [0.9, 0.1]], [[0.2, 0.8], [0.5, 0.5]], [[0.9, 0.1], [0.1, 0.9]]])
    decision = decide(Confidence(0.75), outputs)
    assert decision.exits.tolist() == [1, 0]
    assert decision.answering.tolist() == [1, 0]
    assert decision.predictions.tolist() == [1, 0]
    assert decision.cost.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_fallback():
    outputs = outputs_of([[[0.4, 0.6]], [[0.3, 0.7]], [[0.6, 0.4]]])
    surest, last = decide(Confidence(0.95), outputs), decide(Confidence(0.95, "last"), outputs)
    assert (surest.exits.item(), surest.answering.item(), surest.predictions.item()) == (3, 1, 1)
    assert (last.exits.item(), last.answering.item(), last.predictions.item()) == (3, 2, 0)
    assert surest.cost.item() == last.cost.item() == 1.0


def test_ties_go_to_the_shallower_exit():
    outputs = outputs_of([[[0.2, 0.8]], [[0.8, 0.2]], [[0.7, 0.3]]])
    assert decide(Confidence(2.0), outputs).answering.item() == 0
    # A score that equals the threshold reaches it.
    assert exit_of(Confidence(outputs.confidences[0, 0].item()), outputs).item() == 0


def test_one_exit():
    outputs = outputs_of([[[0.2, 0.8], [0.6, 0.4]]])
    for rule in rules(1):
        assert exit_of(replace(rule, threshold=0.0), outputs).tolist() == [0, 0]
        unsure = decide(replace(rule, threshold=9.0), outputs)
        assert unsure.exits.tolist() == [1, 1]
        assert unsure.predictions.tolist() == [1, 0]
        assert unsure.cost.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("classes", [2, 3, 10, 47, 100, 1000])
def test_threshold_zero_takes_even_uniform_answers(classes):
    for scale in (1.0, 1e-3, 1e-6):
        logits = scale * torch.randn(1, 500, classes, generator=torch.Generator().manual_seed(classes))
        logits[:, 0] = 0.0
        targets = torch.zeros(500, dtype=torch.int64)
        outputs = Outputs(logits, targets, targets, (classes,), ExitCosts([1.0], 1.0))
        for rule in (Confidence(0.0), Entropy(0.0), Margin(0.0)):
            assert exit_of(rule, outputs).eq(0).all()


def test_threshold_one_takes_certain_answers_only():
    certain, unsure = [[1.0, 0.0], [0.4, 0.6]]
    outputs = outputs_of([[certain, unsure], [unsure, unsure]])
    for rule in (Confidence(1.0), Entropy(1.0), Margin(1.0)):
        assert exit_of(rule, outputs).tolist() == [0, 2]


def test_a_threshold_for_each_exit():
    outputs = outputs_of([[[0.8, 0.2]], [[0.7, 0.3]], [[0.6, 0.4]]])
    assert exit_of(Confidence((0.9, 0.65, 0.0)), outputs).item() == 1
    assert exit_of(Confidence((0.9, 0.75, 0.0)), outputs).item() == 2
    with pytest.raises(ConfigurationError, match="Confidence has 2 thresholds for 3 exits"):
        exit_of(Confidence((0.9, 0.7)), outputs)


def test_mistakes_are_one_sentence(random_outputs):
    outputs = random_outputs(0)
    outputs.logits[2, 5, 1] = torch.nan
    for rule in rules(4):
        with pytest.raises(UserError, match="1 of 200 answers are not numbers"):
            decide(rule, outputs)
    with pytest.raises(ConfigurationError, match="threshold of Margin is nan"):
        Margin(math.nan)
    with pytest.raises(ConfigurationError, match="fallback is 'first'"):
        Margin(0.5, "first")
    with pytest.raises(ConfigurationError, match="fitted to 3 exits and is used with 4"):
        decide(scorer(3), random_outputs(0))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 30), st.integers(0, 4))
def test_a_higher_threshold_never_exits_earlier(random_outputs, seed, exits, samples, which):
    outputs = random_outputs(seed, exits, samples)
    rule = rules(exits)[which]
    values = [0.0, *scores(rule, outputs).flatten().sort().values.tolist(), 9.0]
    taken = [exit_of(replace(rule, threshold=value), outputs) for value in values]
    assert taken[0].eq(0).all()
    assert taken[-1].eq(exits).all()
    assert all((later >= earlier).all() for earlier, later in pairwise(taken))


@given(st.integers(0, 10**6), st.integers(0, 4), st.floats(0, 1))
def test_rules_are_causal(random_outputs, seed, which, threshold):
    """What deeper exits say changes nothing for a sample that has left."""
    outputs = random_outputs(seed, 4, 20)
    rule = replace(rules(4)[which], threshold=threshold)
    before = decide(rule, outputs)
    depth = 2
    outputs.logits[depth:] = torch.randn(4 - depth, 20, 5)
    after = decide(rule, outputs)
    gone = before.exits < depth
    assert torch.equal(after.exits[gone], before.exits[gone])
    assert torch.equal(after.predictions[gone], before.predictions[gone])


def test_task_incremental_answers_stay_in_the_task(random_outputs):
    outputs = random_outputs(3, sizes=(1, 2, 3)).task_incremental
    for rule in rules(4):
        values = scores(rule, outputs)
        assert values.isfinite().all()
        predictions = decide(rule, outputs).predictions
        tasks = torch.tensor([0, 1, 1, 2, 2, 2])[predictions]
        assert torch.equal(tasks, outputs.tasks)
    # Among one class there is nothing to choose.
    alone = outputs.tasks == 0
    for rule in (Confidence(), Entropy(), Margin()):
        assert scores(rule, outputs)[:, alone].eq(1).all()
