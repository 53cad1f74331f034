"""A network with exits: placement, weights, growth, what each exit sees, and what it costs."""

import re
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.exits.cost import exit_costs
from cl_ac.heads import GrowingCosine
from cl_ac.network import Backbone, ExitNetwork, Exits


@pytest.fixture
def images():
    return torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_weights_rise_from_a_hundredth_to_their_end():
    exits = Exits(["first", "second"], [0.3, 0.0])
    for epoch in range(5):
        expected = [0.01 + epoch / 4 * (0.3 - 0.01), 0.0, 1.0]
        assert exits.weights_at(epoch, 5) == pytest.approx(expected, abs=1e-12)
    assert exits.weights_at(0, 1) == pytest.approx([0.3, 0.0, 1.0])
    assert Exits(["first"], [0.4], ramp="constant").weights_at(0, 9) == [0.4, 1.0]


def test_final_head_starts_the_same_with_and_without_acs(toy_network):
    plain, with_acs = toy_network(sizes=(2, 3)), toy_network("sdn", (2, 3))
    for a, b in zip(plain.heads[-1].parameters(), with_acs.heads[-1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_reset_final_head_is_the_same_with_and_without_acs(toy_network):
    plain, with_acs = toy_network(sizes=(2, 3)), toy_network("sdn", (2, 3))
    before = plain.heads[-1].classifier.weight.detach()
    for network in (plain, with_acs):
        network.reset_heads(0)
    weights = [network.heads[-1].classifier.weight for network in (plain, with_acs)]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], before)


def test_the_final_logits_are_those_of_the_network_without_acs(toy_network, images):
    assert torch.equal(toy_network()(images)[-1], toy_network("sdn")(images)[-1])


@pytest.mark.parametrize("classifier", [None, GrowingCosine])
def test_every_exit_answers_for_every_class(classifier, toy_network, images):
    options = {} if classifier is None else {"classifier": classifier}
    network = toy_network("sdn", (2, 3, 1), **options)
    assert network(images).shape == (3, 4, 6)
    assert network.num_classes == 6
    assert network.sizes == [2, 3, 1]


def test_detached_acs_send_no_gradient_into_the_backbone(toy_network, images):
    network = toy_network(Exits(["first", "second"], [0.3, 0.6], detach=True))
    outputs = network.stage_outputs(images)
    hidden = network.at_exits(outputs)
    losses = network.classify(hidden)[:-1].sum() + sum(part.sum() for part in network.read(hidden)[:-1])
    losses = losses + sum(part.sum() for maps in network.maps_below(outputs)[:-1] for part in maps)
    losses.backward()
    # The final exit's share of the stacked logits gets a gradient of zero.
    assert all(not parameter.grad.any() for parameter in network.backbone.parameters())
    network(images)[-1].sum().backward()
    assert all(parameter.grad.any() for parameter in network.backbone.parameters())


def test_what_each_exit_reads_agrees(toy_network, images):
    network = toy_network("sdn").eval()
    hidden = network.hidden(images)
    assert torch.equal(network.classify(hidden), network(images))
    assert all(torch.equal(a, b) for a, b in zip(network.read(hidden), network.features(images), strict=True))


def test_maps_below_an_exit(toy_network, images):
    network = toy_network("sdn")
    outputs = network.stage_outputs(images)
    first, second, final = network.maps_below(outputs)
    assert [value is outputs[0] for value in first] == [True]
    assert [value is outputs[1] for value in second] == [True]
    assert [value is outputs[1] for value in final] == [True]


def test_only_new_rows_learn_when_old_classes_are_frozen(toy_network):
    network = toy_network("sdn", (2, 2))
    network.train_old_rows(False)
    assert all(not rows.requires_grad for head in network.heads for rows in head.old_rows)
    assert all(rows.requires_grad for rows in network.new_rows)
    network.train_old_rows(True)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_frozen_batch_norm_stays_in_evaluation_mode(toy_network, images):
    network = toy_network("sdn")
    network.batch_norm_frozen = True
    network.train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(images)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    network.batch_norm_frozen = False
    network.train()(images)
    assert not torch.equal(network.backbone.stages[0][1].running_mean, before["backbone.stages.0.1.running_mean"])


def test_the_cost_counts_convolutions_and_heads(toy_network):
    cost = exit_costs(toy_network("sdn", (2, 3)))
    first, second = 4 * 9 * 36, 4 * 4 * 9 * 36  # 3 × 3 kernels on 6 × 6 maps
    ac = 36 * 5  # the mix of both poolings of 4 × 3 × 3 features
    final = 4 * 5
    assert cost.plain == first + second + final
    assert cost.exits == [first + ac, first + second + 2 * ac, first + second + 2 * ac + final]


CASCADE = Exits(["first", "second"], [0.3, 0.6], cascade=True)


def test_cascades_connect_acs_and_neither_the_first_nor_the_final_exit(toy_network, images):
    network, alone = toy_network(CASCADE, (2, 3)).eval(), toy_network("sdn", (2, 3)).eval()
    assert [head.cascade is None for head in network.heads] == [True, False, True]
    assert torch.equal(network(images), alone(images)), "zero columns are the heads alone"
    cascade = network.heads[1].cascade
    for rows in (cascade.old_weight, cascade.new_weight):
        torch.nn.init.normal_(rows, generator=torch.Generator().manual_seed(0))
    before, after = alone(images), network(images)
    torch.testing.assert_close(after[1], before[1] + cascade(before[0]))
    assert torch.equal(after[[0, 2]], before[[0, 2]])


def test_growing_a_cascading_network_keeps_its_logits(toy_network, images):
    network = toy_network(CASCADE, (2, 3)).eval()
    for rows in (network.heads[1].cascade.old_weight, network.heads[1].cascade.new_weight):
        torch.nn.init.normal_(rows, generator=torch.Generator().manual_seed(0))
    before = network(images)
    network.grow(2, seed=5)
    torch.testing.assert_close(network(images)[:, :, :5], before, rtol=1e-4, atol=1e-4)


def test_the_cost_of_a_cascade_is_counted(toy_network):
    alone, cascading = exit_costs(toy_network("sdn", (2, 3))), exit_costs(toy_network(CASCADE, (2, 3)))
    more = [a - b for a, b in zip(cascading.exits, alone.exits, strict=True)]
    assert more == [0, 25, 25]
    assert cascading.plain == alone.plain


def test_poolings_are_mixed_before_the_product_whatever_the_tasks(toy_network):
    one, two = exit_costs(toy_network("sdn", (5,))), exit_costs(toy_network("sdn", (2, 3)))
    assert one == replace(two, parameters=one.parameters)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Exits(["first"], [0.1, 0.2]), "exits.weights has 2 values for 1 ACs"),
        (lambda: Exits(["first"], [-0.1]), "at least 0"),
        (lambda: Exits(["first", "first"], [0.1, 0.1]), "named once"),
        (lambda: Exits(["first"], [0.1], pool=0), "exits.pool is 0"),
    ],
)
def test_impossible_exits_are_refused(make, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make()


def test_impossible_placements_are_refused(toy_network, toy_backbone):
    with pytest.raises(ConfigurationError, match="did you mean 'first'"):
        toy_network(Exits(["frist"], [0.1]))
    with pytest.raises(ConfigurationError, match="from shallow to deep"):
        toy_network(Exits(["second", "first"], [0.1, 0.2]))
    with pytest.raises(ConfigurationError, match="unknown exits preset 'sdm'"):
        toy_backbone().exits("sdm")


def test_a_map_whose_axes_nothing_shows_is_told_about():
    class Shapeless(nn.Module):
        def forward(self, images):
            return images.view(-1, 3, 4, 4) * 2

    stages = {"first": Shapeless(), "last": nn.Flatten()}
    with pytest.warns(UserWarning, match="output \\(3, 4, 4\\) of the stage 'first'.* read as channels_first"):
        ExitNetwork(Backbone((3, 4, 4), stages), Exits(["first"], [0.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExitNetwork(Backbone((3, 4, 4), stages, {"first": "channels_last"}), Exits(["first"], [0.5]))


@pytest.mark.parametrize(("frozen", "count"), [("none", 0), ("first", 1), ("second", 2), ("pool", 3), ("all", 3)])
def test_frozen_stages_learn_nothing_in_any_mode(toy_backbone, frozen, count):
    backbone = toy_backbone()
    backbone.freeze(frozen)
    network = ExitNetwork(backbone).train()
    assert [any(p.requires_grad for p in stage.parameters()) for stage in backbone.stages[:2]] == [
        index >= count for index in range(2)
    ]
    assert [stage.training for stage in backbone.stages] == [index >= count for index in range(3)]
    copy = network.frozen_copy()
    assert copy.backbone.frozen_stages == count
    copy.requires_grad_(True)
    assert [p.requires_grad for p in copy.parameters()] == [p.requires_grad for p in network.parameters()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frozen": "fist"}, "unknown stage in backbone.frozen 'fist'; did you mean 'first'? known: all, first, none"),
        ({"lr_scale": {"third": 1.0}}, "unknown stage in backbone.lr_scale 'third'"),
        ({"lr_scale": -1.0}, "backbone.lr_scale is -1; it must be at least 0"),
        ({"lr_scale": {"first": -0.5}}, "backbone.lr_scale is -0.5"),
    ],
)
def test_what_learns_names_stages_that_exist(options, words):
    stages = {"first": torch.nn.Flatten(), "second": torch.nn.Linear(4, 2)}
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        Backbone((1, 2, 2), stages, **options)


def test_stages_may_be_numbered():
    exits = Exits([0, "third"], [0.5, 1.0])
    assert exits.stages(["first", "second", "third", "last"]) == ["first", "third"]
    assert Exits(["1", 2], [1.0, 1.0]).stages(["a", "b", "c", "d"]) == ["b", "c"]
    assert Exits(["1"], [1.0]).stages(["0", "2", "1", "3"]) == ["1"], "a name goes before a number"


def test_a_network_names_its_numbered_stages(toy_network):
    named = toy_network("sdn")
    network = ExitNetwork(named.backbone, Exits([0, 1], [1.0, 1.0]))
    assert network.exits.at == named.backbone.stage_names[:2]


@pytest.mark.parametrize(
    ("at", "sentence"),
    [
        ([3], "exits.at has 3; stages that may have an AC are numbered from 0 to 2"),
        (["last"], "unknown stage in exits.at 'last'"),
        ([1, 0], "name each stage once, from shallow to deep"),
        ([1, "second"], "name each stage once"),
    ],
)
def test_stages_that_are_not_there(at, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        Exits(at, [1.0] * len(at)).stages(["first", "second", "third", "last"])
