"""Ensembles of linear heads."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.classifiers.ensemble import Ensemble
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.network import Exits


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grown(exits: int, classes: int, **options) -> Ensemble:
    ensemble = Ensemble(**options)
    ensemble.grow(exits, classes, torch.device("cpu"))
    return ensemble


def random(exits: int, samples: int, classes: int, seed: int = 0) -> list[torch.Tensor]:
    return list(3 * torch.randn(exits, samples, classes, generator=stream(seed)))


def test_geometric_ensemble_by_hand():
    ensemble = grown(2, 2)
    ensemble.omega = torch.tensor([[0.0, 9.0], [0.0, 1.0]])
    ensemble.beta = torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    first, second = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.3, 0.7]]).log()
    found = ensemble.logits([first + 5, second - 1])  # a constant in a head's logits means nothing
    torch.testing.assert_close(found[0], first)
    torch.testing.assert_close(found[1], torch.tensor([[0.5, 0.0]]) + (first + 2.718281828 * second) / 2)


def test_arithmetic_ensemble_by_hand():
    ensemble = grown(2, 2, combination="arithmetic")
    ensemble.omega = torch.tensor([[0.0, 9.0], [0.0, 2.0]]).log1p()
    ensemble.beta = torch.tensor([[0.0, 0.0], [1.0, 3.0]]).log()
    first, second = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.3, 0.7]])
    found = ensemble.logits([first.log(), second.log()]).softmax(-1)
    expected = torch.tensor([1.0, 3.0]) + first + 3 * second
    torch.testing.assert_close(found[1], expected / expected.sum())


@given(
    seed=st.integers(0, 10**6),
    combination=st.sampled_from(["geometric", "arithmetic"]),
    weights=st.floats(-2, 2),
    copies=st.integers(1, 4),
)
def test_identical_heads_keep_the_arg_max(seed, combination, weights, copies):
    """With one head, this is that an ensemble of one answers as the head."""
    (logits,) = random(1, 20, 5, seed)
    ensemble = grown(copies, 5, combination=combination)
    ensemble.omega = torch.full((copies, copies), weights)
    found = ensemble.logits([logits] * copies)
    assert all(torch.equal(row.argmax(-1), logits.argmax(-1)) for row in found)


@given(seed=st.integers(0, 10**6), combination=st.sampled_from(["geometric", "arithmetic"]), final=st.booleans())
def test_an_exit_answers_from_the_exits_so_far(seed, combination, final):
    ensemble = grown(3, 4, combination=combination, with_final=final)
    ensemble.omega, ensemble.beta = torch.randn(3, 3, generator=stream(seed)), torch.randn(3, 4, generator=stream(seed))
    heads = random(3, 7, 4, seed)
    together = ensemble.logits(heads)
    scores = torch.stack(heads).log_softmax(-1)
    for index in range(3):
        torch.testing.assert_close(ensemble.logits_at(index, scores[: index + 1]), together[index])
    if not final:
        torch.testing.assert_close(together[-1], scores[-1])


@given(
    seed=st.integers(0, 10**6),
    combination=st.sampled_from(["geometric", "arithmetic"]),
    final=st.booleans(),
    with_beta=st.booleans(),
)
def test_fitting_does_not_raise_the_cross_entropy(seed, combination, final, with_beta):
    ensemble = grown(3, 4, combination=combination, with_final=final)
    ensemble.omega = torch.randn(3, 3, generator=stream(seed))
    heads, targets = random(3, 24, 4, seed), torch.arange(24) % 4
    logits = torch.stack(heads) + F.one_hot(targets, 4)

    def loss() -> float:
        return sum(F.cross_entropy(each.double(), targets).item() for each in ensemble.logits(logits))

    before, shifts = loss(), ensemble.beta.clone()
    ensemble.fit_to(logits, targets, with_beta)
    assert loss() <= before + 1e-6
    assert torch.equal(ensemble.beta, shifts) is not with_beta


def test_every_class_counts_the_same():
    ensemble, balanced = grown(2, 3), grown(2, 3)
    logits, targets = torch.stack(random(2, 30, 3)), torch.arange(30) % 3
    often = torch.cat([torch.arange(30), (targets == 1).nonzero()[:, 0].repeat(4)])
    ensemble.fit_to(logits[:, often], targets[often], with_beta=True)
    balanced.fit_to(logits, targets, with_beta=True)
    torch.testing.assert_close(ensemble.omega, balanced.omega, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ensemble.beta, balanced.beta, atol=1e-4, rtol=1e-4)


def test_growing_keeps_the_old_logits():
    ensemble = grown(3, 2)
    ensemble.omega, ensemble.beta = torch.randn(3, 3), torch.randn(3, 2)
    omega, beta = ensemble.omega.clone(), ensemble.beta.clone()
    ensemble.grow(3, 5, torch.device("cpu"))
    assert torch.equal(ensemble.omega, omega)
    assert torch.equal(ensemble.beta, F.pad(beta, (0, 3)))


@pytest.mark.parametrize("memory", [0, 12])
def test_what_is_fitted_after_a_task(toy_benchmark, toy_network, toy_trainer, memory):
    task = toy_benchmark(validation=0.25)[1]
    network = toy_network("sdn", (2, 2))
    store, ensemble = Memory(memory), Ensemble()
    if memory:
        for each in toy_benchmark()[0], task:
            store.update(each.train, stream(), network, toy_trainer)
    ensemble.update(task, network, toy_trainer, store)
    assert ensemble.omega.any()
    assert bool(ensemble.beta.any()) is bool(memory), "without exemplars, β would prefer the newest classes"


def test_without_samples_of_its_own_nothing_is_fitted(toy_benchmark, toy_network, toy_trainer):
    ensemble = Ensemble()
    ensemble.update(toy_benchmark(validation="test")[0], toy_network("sdn"), toy_trainer, Memory())
    assert not ensemble.omega.any()
    assert ensemble.beta.shape == (3, 2)


def test_a_run_with_an_ensemble_of_cascades(toy_run):
    exits = Exits(["first", "second"], [0.3, 0.6], cascade=True)
    ensemble = Ensemble()
    directory = toy_run(FineTuning(), exits=exits, memory=12, classifier=ensemble)
    outputs = directory.outputs(2)
    assert outputs.logits.shape == (3, 30, 6)
    # Logits of the ensemble are not normalised; those of the first exit alone are, up to its weight and shift.
    assert ensemble.beta.shape == (3, 6)
    assert ensemble.beta.any()


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigurationError, match="did you mean 'geometric'"):
        Ensemble("geometrical")
    with pytest.raises(ConfigurationError, match=r"classifier\.decay is -1"):
        Ensemble(decay=-1)
