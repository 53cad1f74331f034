from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.exits.calibration import (
    fit_scorer,
    fit_temperature,
    fit_tlc,
    fit_vector_scaling,
    rescale,
    task_shift,
    with_temperature,
    with_vector_scaling,
)
from cl_ac.exits.quality import calibration_errors, eefp
from cl_ac.exits.rules import decide, scores


def honest(outputs: Outputs) -> Outputs:
    """The same with targets drawn from the last exit's probabilities."""
    drawn = torch.multinomial(outputs.probabilities[-1], 1, generator=torch.Generator().manual_seed(0))[:, 0]
    return replace(outputs, targets=drawn)


def cross_entropy(outputs: Outputs) -> list[float]:
    return [F.cross_entropy(each.double(), outputs.targets).item() for each in outputs.logits]


def test_temperature_is_found_again(random_outputs):
    outputs = honest(random_outputs(0, exits=1, samples=20_000))
    for wrong in (0.4, 2.5):
        distorted = with_temperature(outputs, torch.tensor([wrong]))
        assert (fit_temperature(distorted) * wrong).item() == pytest.approx(1.0, abs=0.03)


def test_temperature_scaling_changes_no_answer(random_outputs):
    held_out, test = random_outputs(0, samples=1000), random_outputs(1, samples=1000)
    scaled = with_temperature(test, fit_temperature(held_out))
    assert torch.equal(scaled.predictions, test.predictions)
    assert all(after < before for before, after in zip(cross_entropy(test), cross_entropy(scaled), strict=True))
    assert sum(calibration_errors(scaled)) < sum(calibration_errors(test))


def test_worse_than_chance_gets_a_finite_positive_temperature(random_outputs):
    outputs = random_outputs(0, exits=2)
    wrong = replace(outputs, logits=-outputs.logits)
    assert fit_temperature(wrong).isfinite().all()
    assert (fit_temperature(wrong) > 0).all()


def test_vector_scaling_is_found_again(random_outputs):
    outputs = honest(random_outputs(0, exits=1, samples=20_000))
    scale, shift = torch.tensor([[1.0, 0.5, 2.0, 1.0, 1.5]]), torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.0]])
    distorted = rescale(outputs, scale[:, None], shift[:, None])
    repaired = with_vector_scaling(distorted, *fit_vector_scaling(distorted))
    torch.testing.assert_close(repaired.probabilities, outputs.probabilities, atol=0.05, rtol=0)
    # It fits at least as well as a temperature, of which it is a generalisation.
    by_temperature = with_temperature(distorted, fit_temperature(distorted))
    assert cross_entropy(repaired)[0] < cross_entropy(by_temperature)[0]


def test_learned_scorer_ranks_better_where_confidence_misleads(random_outputs):
    def misleading(seed: int) -> Outputs:
        """Exit 0 knows the class, but of four samples in ten it is surer that they are of class 0."""
        outputs = random_outputs(seed, exits=3, samples=3000)
        logits = outputs.logits.clone()
        logits[0] += 4 * F.one_hot(outputs.targets, 5)
        fooled = torch.rand(3000, generator=torch.Generator().manual_seed(seed)) < 0.4
        logits[0, fooled] = torch.tensor([9.0, 5.0, 5.0, 5.0, 5.0])
        return replace(outputs, logits=logits)

    held_out, test = misleading(0), misleading(1)
    rule = fit_scorer(held_out)
    learned, confidence = eefp(test, rule), eefp(test)
    assert learned[0] > confidence[0] + 0.1
    assert learned[-1] is None
    # The scores are probabilities, and what each exit answers is untouched.
    decision = decide(replace(rule, threshold=0.7), test)
    answers = test.predictions.gather(0, decision.answering[None])[0]
    assert torch.equal(decision.predictions, answers)


def test_learned_scorer_lets_samples_go_that_no_exit_gets_right():
    stream = torch.Generator().manual_seed(0)
    kind = torch.arange(900) % 3  # right at once, right later, never right
    logits = 0.1 * torch.randn(2, 900, 4, generator=stream)
    logits[0, :, 0] += torch.tensor([6.0, 0.0, 3.0])[kind]
    logits[1, :, 0] += 6.0
    targets = torch.where(kind == 0, 0, 1)
    logits[1, kind == 1, 1] += 12.0
    outputs = Outputs(logits, targets, targets, (4,), ExitCosts([1.0, 2.0], 2.0))
    first, last = scores(fit_scorer(outputs), outputs)
    assert [(first[kind == each] > 0.5).double().mean().item() for each in range(3)] == [1.0, 0.0, 1.0]
    assert last[kind == 2].mean() < last[kind == 1].mean()


def test_learned_scorer_of_exits_that_are_always_right(random_outputs):
    outputs = random_outputs(0, exits=2)
    outputs.logits[:, torch.arange(200), outputs.targets] = 30.0
    assert fit_scorer(outputs).weights.isfinite().all()


def test_task_shift_by_hand():
    assert task_shift((2, 1, 2), 0.5, 1.0).tolist() == [2.0, 2.0, 1.5, 0.0, 0.0]


def test_tlc_takes_back_the_preference_for_the_last_task():
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 400, 9, generator=stream)
    labels = torch.randint(6, 9, (400,), generator=stream)
    fair = logits + 3 * F.one_hot(labels, 9)
    biased = fair - task_shift((3, 3, 3), 0.7, 1.2)
    slope, offset = fit_tlc(biased, (3, 3, 3))
    neither = fit_tlc(fair, (3, 3, 3))
    assert slope - neither[0] == pytest.approx(0.7, abs=0.02)
    assert offset - neither[1] == pytest.approx(1.2, abs=0.02)


def test_tlc_minimises_its_definition():
    sizes = (2, 2, 3)
    logits = torch.randn(2, 60, 7, generator=torch.Generator().manual_seed(3)).double()
    logits[..., 4:] += 1.5

    def definition(slope: float, offset: float) -> float:
        corrected = logits + task_shift(sizes, slope, offset)
        left = corrected.scatter(-1, corrected.argmax(-1, keepdim=True), -torch.inf)
        largest = torch.stack([part.amax(-1) for part in left.split(sizes, -1)], -1)  # [E, N, T]
        return (largest - largest.mean((0, 2), keepdim=True)).square().mean().item()

    slope, offset = fit_tlc(logits, sizes)
    steps = torch.linspace(-1, 1, 21).tolist()
    around = min(definition(slope + a, offset + b) for a in steps for b in steps)
    assert definition(slope, offset) == pytest.approx(around, abs=1e-4)


def test_tlc_with_tasks_of_one_class_and_with_one_task():
    logits = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(1))
    assert all(torch.tensor(fit_tlc(logits, (1, 1, 1))).isfinite())
    assert fit_tlc(logits, (3,)) == fit_tlc(logits, (3, 0)) == (0.0, 0.0)
    assert all(torch.tensor(fit_tlc(logits, (2, 0, 1))).isfinite()), "one task brought no class"
