"""A target of its own for each sample, against a loop over samples."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from cl_ac.errors import ConfigurationError
from cl_ac.hypernetworks.hypernetwork import Hypernetwork


@pytest.fixture
def target():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.GELU(), nn.Flatten(0), nn.Linear(12, 2), nn.LayerNorm(2))


def given():
    stream = torch.Generator().manual_seed(1)
    return torch.randn(5, 4, generator=stream), torch.randn(5, 2, 4, generator=stream)


@pytest.mark.parametrize("mode", ["replace", "add", "modulate"])
@pytest.mark.parametrize("emitted", [None, ["0", "3.bias"]])
@pytest.mark.parametrize("chunk", [0, 7])
def test_equals_a_loop_over_samples(target, mode, emitted, chunk):
    own = copy.deepcopy(target)
    network = Hypernetwork(target, 4, (6,), emitted, mode, chunk=chunk)
    for layer in network.emitter.layers[::2]:
        nn.init.normal_(layer.weight)
    conditions, inputs = given()
    answers = network(conditions, inputs)
    vectors = network.layout.split(network.emitter(conditions))
    for index, (answer, value) in enumerate(zip(answers, inputs, strict=True)):
        weights = dict(own.named_parameters())
        for name, made in vectors.items():
            both = {"replace": made[index], "add": weights[name] + made[index]}
            weights[name] = both.get(mode, weights[name] * (1 + made[index]))
        torch.testing.assert_close(answer, functional_call(own, weights, (value,)))


def test_the_same_inputs_for_all_need_no_batch_axis(target):
    network = Hypernetwork(target, 4)
    conditions, inputs = given()
    once = network(conditions, inputs[0], same_inputs=True)
    torch.testing.assert_close(once, network(conditions, inputs[:1].expand(5, -1, -1)))


@pytest.mark.parametrize("mode", ["add", "modulate"])
def test_all_samples_begin_with_the_target_as_it_is(target, mode):
    network = Hypernetwork(target, 4, mode=mode)
    conditions, inputs = given()
    torch.testing.assert_close(network(conditions, inputs[0], same_inputs=True), target(inputs[0]).expand(5, -1))


def test_gradients_reach_the_emitter_and_what_is_shared_and_nothing_unread_is_kept(target):
    network = Hypernetwork(target, 4, (6,), ["0"])
    network(*given()).square().sum().backward()
    named = dict(network.named_parameters())
    assert "target.0.weight" not in named
    assert {"target.3.weight", "emitter.layers.0.weight"} <= set(named)
    assert all(value.grad.abs().sum() > 0 for name, value in named.items() if "target.4" not in name)


def test_an_unknown_mode_is_refused(target):
    with pytest.raises(ConfigurationError, match="replace, add or modulate"):
        Hypernetwork(target, 4, mode="multiply")
