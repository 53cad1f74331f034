"""Adapters chosen for each query: every rule is what merging by hand gives."""

import pytest
import torch
from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.retrieval.answering import TestItems
from cl_ac.retrieval.dar import DAR, OneAdapter
from cl_ac.retrieval.encoder import DualEncoder
from cl_ac.tuning.bank import banks, use
from cl_ac.tuning.sign_election import elect_signs


@pytest.fixture
def taught(arrays, make_encoder):
    """Makes a method, its encoder and the items of three domains, of which two have adapters of random weights."""

    def teach(**options):
        benchmark, encoder = arrays(2), make_encoder()
        method = DAR(**{"rank": 2, "unknown": 0.0, "temperature": 0.5, **options})
        method.prepare(encoder)
        stream = torch.Generator().manual_seed(0)
        for index, domain in enumerate(benchmark.domains.learned):
            method.begin(index, encoder, 0)
            with torch.no_grad():
                for bank in banks(encoder):
                    for parameter in bank.newest.parameters():
                        parameter.add_(torch.randn(parameter.shape, generator=stream), alpha=0.3)
            method.end(index, domain, encoder, 0)
        return method, encoder.eval(), TestItems(encoder, benchmark.domains.tested)

    return teach


@torch.no_grad()
def by_hand(encoder, items, weights, merge=None, rows=None):
    """Cosines from the first side of domain 0 to its second side under merged adapters."""
    use(encoder, {index: weight for index, weight in enumerate(weights) if weight}, merge)
    queries = items.items(0, 0) if rows is None else items.items(0, 0)[rows]
    return encoder.embed(0, queries) @ encoder.embed(1, items.items(1, 0)).T


def test_oracle_nearest_and_uniform(taught):
    method, encoder, items = taught()
    torch.testing.assert_close(method.similarities("oracle", items, 0, 0, [0]), by_hand(encoder, items, [1.0, 0]))
    torch.testing.assert_close(method.similarities("uniform", items, 0, 0, [0]), by_hand(encoder, items, [0.5, 0.5]))
    nearest = method.similarities("nearest", items, 0, 0, [0])
    chosen, _ = method.routing(items, 0, 0)
    for row, domain in enumerate(chosen.tolist()):
        expected = by_hand(encoder, items, [domain == 0, domain == 1], rows=[row])
        torch.testing.assert_close(nearest[row : row + 1], expected)


def test_a_domain_that_is_not_learned_has_the_base_model_for_an_oracle(taught):
    method, encoder, items = taught()
    use(encoder, {})
    expected = encoder.embed(0, items.items(0, 2)) @ encoder.embed(1, items.items(1, 2)).T
    torch.testing.assert_close(method.similarities("oracle", items, 0, 2, [2]), expected)


@pytest.mark.parametrize(("merge", "how"), [("weights", None), ("signs", elect_signs)])
def test_weights_are_merged_for_the_mix_of_each_query(taught, merge, how):
    method, encoder, items = taught(merge=merge, steps=16)
    found = method.similarities("routed", items, 0, 0, [0])
    use(encoder, {})
    weights = method.router.weights(0, encoder.embed(0, items.items(0, 0)))
    mixes = (weights * 16).round() / 16
    assert len(mixes.unique(dim=0)) > 1
    for row, mix in enumerate(mixes.tolist()):
        torch.testing.assert_close(found[row : row + 1], by_hand(encoder, items, mix, how, rows=[row]))


def test_outputs_are_mixed_for_each_query_and_the_gallery_once_for_each_adapter(taught):
    method, encoder, items = taught(merge="outputs")
    found = method.similarities("routed", items, 0, 0, [0, 2])
    use(encoder, {})
    base = encoder.embed(0, items.items(0, 0))
    weights = method.router.weights(0, base)
    galleries = []
    for mix in ({}, {0: 1.0}, {1: 1.0}):
        use(encoder, mix)
        galleries.append(torch.cat([encoder.embed(1, items.items(1, place)) for place in (0, 2)]))
    for row, (first, second) in enumerate(weights.tolist()):
        use(encoder, {0: first, 1: second})
        query = encoder.embed(0, items.items(0, 0)[row : row + 1])
        mixed = nn.functional.normalize(first * galleries[1] + second * galleries[2], dim=1)
        torch.testing.assert_close(found[row : row + 1], query @ mixed.T)


def test_queries_of_no_domain_have_the_base_model(taught):
    method, encoder, items = taught(unknown=0.5, merge="outputs")
    method.router.least_0 += 2  # nothing is as near as that
    use(encoder, {})
    expected = encoder.embed(0, items.items(0, 0)) @ encoder.embed(1, items.items(1, 0)).T
    torch.testing.assert_close(method.similarities("routed", items, 0, 0, [0]), expected)


def test_what_is_added_is_counted(taught):
    method, encoder, _ = taught(prototypes=3)
    adapters = 2 * sum(2 * (sum(layer.shape)) for layer in [torch.empty(16, 32)] * 2)
    assert method.added(encoder) == adapters + 2 * 2 * (3 * 16 + 1)


def test_layers_that_cannot_be_mixed_are_refused_before_training():
    backbones = [
        Backbone(
            (1, 2, 8),
            {
                "tokens": nn.Flatten(1, 2),
                "block": nn.TransformerEncoderLayer(8, 2, 8, batch_first=True),
                "flat": nn.Flatten(),
            },
        )
        for _ in range(2)
    ]
    encoder = DualEncoder(backbones)
    with pytest.raises(ConfigurationError, match="is read by attention without a call"):
        DAR(first_layers=["out_proj"], second_layers=["linear1"]).prepare(encoder)


def test_a_single_adapter_keeps_the_towers(make_encoder):
    encoder, method = make_encoder(), OneAdapter(rank=2)
    before = encoder.embed(0, torch.ones(3, 1, 1, 8))
    method.prepare(encoder)
    method.begin(0, encoder, 0)
    assert torch.equal(encoder.embed(0, torch.ones(3, 1, 1, 8)), before)
    learns = {id(parameter) for parameter in method.learns(encoder)}
    assert learns == {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad}
    with pytest.raises(ConfigurationError, match=r"method\.rank is 0; it must be at least 1"):
        OneAdapter(rank=0)
    with pytest.raises(ConfigurationError, match=r"method\.merge is 'mean'; expected one of outputs, weights, signs"):
        DAR(merge="mean")
