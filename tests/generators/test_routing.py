import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from cl_ac.generators.routing import (
    STEEPEST,
    Gates,
    Router,
    differentiation,
    distribution,
    expected_loss,
    gates,
    gumbel,
    load_balance,
    utilisation,
)


def of(soft) -> Gates:
    soft = torch.tensor(soft, requires_grad=True)
    return Gates(soft, soft.argmax(-1))


def test_learned_gate_is_the_softmax_of_the_logits_and_published_that_of_probabilities():
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert gates(logits).soft[0].tolist() == pytest.approx([0.25, 0.75])
    odds = math.exp(0.5)  # of logits 0.25 and 0.75
    assert gates(logits, gate="published").soft[0].tolist() == pytest.approx([1 / (1 + odds), odds / (1 + odds)])


def test_gumbel_noise_chooses_by_the_probabilities():
    noise = gumbel((20_000, 2), torch.Generator().manual_seed(0))
    usage = gates(torch.tensor([0.0, math.log(3.0)]).expand(20_000, 2), noise).usage
    assert usage.tolist() == pytest.approx([0.25, 0.75], abs=0.01)
    assert noise.mean().item() == pytest.approx(np.euler_gamma, abs=0.03)


def test_expected_loss_weighs_every_expert_and_the_published_one_only_the_chosen():
    losses = torch.tensor([[1.0, 3.0], [4.0, 2.0]])
    given = of([[0.75, 0.25], [0.4, 0.6]])
    assert expected_loss(given, losses).item() == pytest.approx((1.5 + 2.8) / 2)
    assert expected_loss(given, losses, "published").item() == pytest.approx((1 + 2) / 2)


def test_the_losses_of_experts_reach_the_router_unless_the_gate_is_published():
    torch.manual_seed(0)
    conditions, losses = torch.randn(8, 4), torch.rand(8, 3)
    router = Router(4, 3, hidden=(5,))
    router[0].bias.data.zero_()
    router[-1].bias.data.zero_()
    learned = gates(router(conditions))
    assert len(learned.chosen.unique()) > 1
    gradient = torch.autograd.grad(expected_loss(learned, losses), router.parameters(), retain_graph=True)
    assert all(each.abs().sum() > 0 for each in gradient)
    features = torch.rand(8, 3, 5)
    gradient = torch.autograd.grad(differentiation(learned, features), router.parameters())
    assert sum(each.abs().sum() for each in gradient) > 0
    published = gates(router(conditions), gate="published")
    assert not expected_loss(published, losses, "published").requires_grad
    assert not differentiation(published, features, "published").requires_grad


def test_a_router_that_descends_what_experts_lose_finds_the_better_one():
    torch.manual_seed(0)
    router, conditions = Router(2, 2), torch.randn(64, 2)
    losses = torch.stack([conditions[:, 0], -conditions[:, 0]], 1)
    optimizer = torch.optim.Adam(router.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        expected_loss(gates(router(conditions)), losses).backward()
        optimizer.step()
    assert (gates(router(conditions)).chosen == losses.argmin(-1)).float().mean() > 0.95


def test_differentiation_is_the_largest_cosine_between_samples_of_two_experts():
    features = torch.zeros(3, 2, 2)
    features[0, 0] = torch.tensor([2.0, 0.0])  # sample 0 of expert 0
    features[1, 1] = torch.tensor([1.0, 1.0])  # samples 1 and 2 of expert 1
    features[2, 1] = torch.tensor([0.0, 3.0])
    features[0, 1] = torch.tensor([5.0, 0.0])  # of an expert that is not chosen
    given = of([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    for gate in ("learned", "published"):
        assert differentiation(given, features, gate).item() == pytest.approx(math.sqrt(0.5))
    assert differentiation(of([[1.0, 0.0]] * 3), features).item() == 0
    assert differentiation(of([[1.0]] * 3), features[:, :1]).item() == 0


def test_load_balance_is_steep_only_where_an_expert_is_asked_for_less_than_a_sample():
    assert load_balance(of([[0.5, 0.5], [0.5, 0.5]])).item() == pytest.approx(math.e)
    given = of([[0.75, 0.25], [1.0, 0.0]])
    assert load_balance(given).item() == pytest.approx((math.exp(1 / 1.75) + math.exp(4)) / 2, rel=1e-5)
    never = of([[1.0, 0.0]])
    bent = math.exp(STEEPEST) * (1 + 1e6 - STEEPEST)
    assert load_balance(never).item() == pytest.approx((math.e + bent) / 2, rel=1e-4)


def test_utilisation_is_what_the_mean_gate_lacks_of_the_largest_entropy():
    given = of([[0.9, 0.1, 0.0], [0.5, 0.1, 0.4]])
    assert utilisation(given).item() == pytest.approx(math.log(3) - entropy([0.7, 0.1, 0.2]), abs=1e-6)
    assert utilisation(of([[0.25, 0.75], [0.75, 0.25]])).item() == pytest.approx(0, abs=1e-6)


def test_distribution_counts_pairs_of_unequal_intensity_that_share_an_expert():
    given = of([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # Pairs (0, 1) and (1, 0) share one at distance 3; there are 6 pairs.
    assert distribution(given, torch.tensor([1.0, 4.0, 9.0])).item() == pytest.approx(2 * 3 / 6)
    assert distribution(of([[1.0, 0.0]]), torch.tensor([1.0])).item() == 0
