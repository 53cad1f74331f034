"""Projected gradients: multipliers against an enumeration of all active sets, gradients against plain autograd."""

from itertools import product

import pytest
import torch

from cl_ac.importance.projection import constrained, multipliers
from cl_ac.network import Exits


def solved(gradient, references, margin=0.0, ridge=0.0) -> torch.Tensor:
    """What `multipliers` gives for one exit's gradient [P] and the references' [K, P]."""
    among, against = references @ references.T, references @ gradient
    return multipliers(among[None], against[None], margin, ridge)[0]


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize(("gradient", "multiplier"), [((1.0, -1.0), 1.0), ((1.0, 1.0), 0.0)])
def test_one_reference(gradient, multiplier, margin):
    assert solved(torch.tensor(gradient), torch.tensor([[0.0, 1.0]]), margin).tolist() == [multiplier]


def enumerated(matrix: torch.Tensor, linear: torch.Tensor, least: float) -> torch.Tensor:
    """`argmin ½ vᵀ A v + bᵀ v, v ≥ least`: the only choice of bound variables that fulfils all conditions."""
    for bound in product([True, False], repeat=len(linear)):
        at, free = torch.tensor(bound), ~torch.tensor(bound)
        found = torch.full_like(linear, least)
        if free.any():
            right = -linear[free] - matrix[free][:, at] @ found[at]
            found[free] = torch.linalg.solve(matrix[free][:, free], right)
        slope = matrix @ found + linear
        if (found[free] >= least).all() and (slope[at] >= 0).all():
            return found
    raise AssertionError("no choice fulfils the conditions")


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_several_references(margin):
    stream = torch.Generator().manual_seed(0)
    turned = 0
    for _ in range(20):
        alike = torch.randn(1, 30, generator=stream, dtype=torch.float64)
        references = torch.randn(4, 30, generator=stream, dtype=torch.float64) + alike
        references *= torch.tensor([0.1, 1.0, 5.0, 1.0])[:, None]
        gradient = torch.randn(30, generator=stream, dtype=torch.float64) - 0.2 * alike[0]
        matrix, linear = references @ references.T + 1e-3 * torch.eye(4), references @ gradient
        found = solved(gradient, references, margin, ridge=1e-3)
        if not (linear < 0).any():
            assert (found == 0).all()
            continue
        turned += 1
        torch.testing.assert_close(found, enumerated(matrix, linear, margin), rtol=1e-3, atol=1e-3)
        assert (references @ (gradient + found @ references) > -2e-2).all()
    assert turned > 5


def test_exits_are_solved_alone_and_a_reference_without_gradient_stays_out():
    among = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[2.0, 1.0], [1.0, 2.0]]])
    against = torch.tensor([[-3.0, 0.0], [1.0, 1.0]])
    assert multipliers(among, against).tolist() == [[3.0, 0.0], [0.0, 0.0]]


@pytest.fixture
def two_losses(toy_network):
    """A network with three exits, losses of it, and others that contradict them."""

    def make(exits="sdn"):
        network = toy_network(exits, (2, 2)).eval()
        images = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        new, old = network(images).log_softmax(-1), network(images + 0.3).log_softmax(-1)
        return network, -new[:, :, 3].mean(1), -torch.stack([old[:, :, 1].mean(1), old[:, :, 0].mean(1)])

    return make


def gradient_of(loss, network) -> torch.Tensor:
    parameters = [parameter for parameter in network.parameters() if parameter.numel()]
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).double()


def test_each_exit_loses_what_contradicts_its_own_reference(two_losses):
    network, losses, references = two_losses()
    turned = constrained(network, losses, references[:1])
    torch.testing.assert_close(turned, losses)
    for index in range(3):
        plain, reference = (gradient_of(each[index], network) for each in (losses, references[0]))
        assert plain @ reference < 0
        expected = plain - (plain @ reference) / (reference @ reference) * reference
        torch.testing.assert_close(gradient_of(turned[index], network), expected, rtol=1e-4, atol=1e-6)


def test_several_references_are_all_obeyed(two_losses):
    network, losses, references = two_losses()
    turned = constrained(network, losses, references)
    for index in range(3):
        gradient = gradient_of(turned[index], network)
        for reference in references:
            against = gradient_of(reference[index], network)
            assert gradient @ against > -1e-4 * gradient.norm() * against.norm()


def test_a_gradient_that_agrees_is_left_alone(two_losses):
    network, losses, _ = two_losses()
    turned = constrained(network, losses, 2 * losses[None], margin=0.5)
    for index in range(3):
        assert torch.equal(gradient_of(turned[index], network), gradient_of(losses[index], network))


def test_detached_exits_are_turned_in_their_heads_only(two_losses):
    network, losses, references = two_losses(Exits(["first", "second"], [0.3, 0.6], detach=True))
    constrained(network, losses, references)[0].backward()
    assert all((parameter.grad == 0).all() for parameter in network.backbone.parameters())
    assert any((rows.grad != 0).any() for rows in network.heads[0].new_rows)
