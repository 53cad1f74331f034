import copy
from dataclasses import replace

import pytest
import torch

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.simulation.calorimeter import Calorimeter
from cl_ac.simulation.expert_sim import Experts, ExpertSim
from cl_ac.simulation.training import Adversarial, Learner, Weights

TRAIN, TEST = Calorimeter(showers=60, repeats=2, height=5, width=4).data(0)
TINY = Experts(noise=2, generator=(4, 4), discriminator=4, features=3)


def learner(experts=3, settings=TINY, weights=Weights(), **training):
    model = ExpertSim(experts, settings, TRAIN.conditions, (5, 4), seed=0)
    return Learner(model, TRAIN, Adversarial(**{"epochs": 4, "batch_size": 16, **training}), weights, seed=0)


def values(trained):
    return torch.cat([each.flatten() for each in trained.model.state_dict().values()])


def test_goes_on_bit_for_bit_where_it_was_saved():
    whole, first, second = learner(), learner(), learner()
    told = [whole.train_epoch() for _ in range(4)]
    assert [first.train_epoch() for _ in range(2)] == told[:2]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [second.train_epoch() for _ in range(2)] == told[2:]
    assert torch.equal(values(whole), values(second))


@pytest.mark.parametrize("gate", ["learned", "published"])
def test_what_experts_lose_moves_the_router_only_by_the_learned_gate(gate):
    only_experts = Weights(differentiation=0, balance=0, utilisation=0)
    trained = learner(settings=replace(TINY, gate=gate), weights=only_experts)
    before = copy.deepcopy(trained.model.router.state_dict())
    trained.train_epoch()
    moved = any(not torch.equal(value, before[name]) for name, value in trained.model.router.state_dict().items())
    assert moved == (gate == "learned")


def test_an_expert_learns_by_its_share_of_the_batch():
    trained = learner()
    trained._set_rates([0.5, 0.5, 0.0])
    rates = [group["lr"] for group in trained.optimizers["generator"].param_groups]
    assert rates == pytest.approx([trained.settings.generator_lr / 2] * 2 + [0])
    trained.epoch = 2
    trained._set_rates([1.0, 0.0, 0.0])
    assert trained.optimizers["router"].param_groups[0]["lr"] == pytest.approx(trained.settings.router_lr / 2)


def test_experts_share_no_weights_and_begin_alike_in_any_number():
    several, one = (ExpertSim(count, TINY, TRAIN.conditions, (5, 4), seed=0) for count in (3, 1))
    first = several.generators[0].state_dict()
    assert all(torch.equal(value, first[name]) for name, value in one.generators[0].state_dict().items())
    assert not torch.equal(several.generators[0].layers[0].weight, several.generators[1].layers[0].weight)


def test_each_shower_is_made_by_the_expert_that_it_is_routed_to():
    model = ExpertSim(3, TINY, TRAIN.conditions, (5, 4), seed=0)
    for expert, network in enumerate(model.generators):
        network.layers[4].weight.data.zero_()
        network.layers[4].bias.data.fill_(expert + 1.0)
    model.router[-1].weight.data *= 50
    images, chosen = model.simulate(TEST.conditions, torch.Generator().manual_seed(0))
    assert len(chosen.unique()) > 1
    assert torch.equal(chosen, model.route(model.scaled(TEST.conditions)).chosen)
    expected = (chosen + 1.0).expm1()[:, None, None].expand_as(images)
    assert torch.allclose(images, expected)


def test_a_discriminator_that_is_fooled_costs_its_generator_nothing():
    trained = learner(weights=Weights(diversity=0, intensity=0, position=0))
    trained.model.discriminators[1].answer.bias.data.fill_(30.0)
    noise = torch.randn(2, len(trained.data), 2)
    made = trained.made(1, trained.data, noise)
    assert trained.generator_losses(1, trained.data, made, noise).max() < 1e-6
    assert trained.discriminator_losses(1, trained.data, made).min() > 20


def test_a_model_that_is_no_number_is_told():
    trained = learner()
    trained.model.generators[0].layers[0].weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"lower training\.generator_lr"):
        trained.train_epoch()


def test_no_expert_is_refused():
    with pytest.raises(ConfigurationError, match="experts is 0; it must be at least 1"):
        ExpertSim(0, TINY, TRAIN.conditions, (5, 4), seed=0)
