import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.ensemble import Ensemble
from cl_ac.classifiers.gaussian import Gaussian
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.exits.cost import counted, exit_costs
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork


def test_products_and_convolutions_are_counted():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    macs, result = counted(lambda: layers(torch.ones(2, 3, 4, 4)))
    assert macs == 2 * (3 * 9 * 4 * 4 + 16 * 5)
    assert result.shape == (2, 5)
    assert not result.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_attention_is_counted(dtype):
    queries = torch.ones(2, 3, 7, 8, dtype=dtype)
    assert counted(lambda: F.scaled_dot_product_attention(queries, queries, queries))[0] == 2 * 3 * (2 * 7 * 7 * 8)


def test_attention_modules_are_counted():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    macs, _ = counted(lambda: layer(torch.ones(1, 5, 8)))
    assert macs == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled()


def answering(classifier: Classifier, network: ExitNetwork, toy_benchmark, toy_trainer) -> Classifier:
    for task in toy_benchmark().tasks[:2]:
        classifier.update(task, network, toy_trainer, Memory())
    return classifier


def test_what_answers_is_counted_in_place_of_the_linear_heads(toy_network, toy_benchmark, toy_trainer):
    network = toy_network("sdn", (2, 2))
    first, second = 4 * 9 * 36, 4 * 4 * 9 * 36  # 3 × 3 kernels on 6 × 6 maps
    # One product of 4 classes with the features of 4 maps pooled to 2 × 2; the final exit has 4 features.
    score, final = 4 * 4 * 2 * 2, 4 * 4
    for kind in (NearestMean, Gaussian):
        classifier = answering(kind(side=2), network, toy_benchmark, toy_trainer)
        cost = exit_costs(network, classifier)
        together = [1 * 4, 2 * 4, 3 * 4]  # the weights of the exits so far, for each class
        expected = [first + score, first + second + 2 * score, first + second + 2 * score + final]
        assert cost.exits == [value + sum(together[: index + 1]) for index, value in enumerate(expected)]
        assert cost.plain == first + second + final


def test_parameters_are_those_of_the_network_with_its_acs(toy_network):
    network = toy_network("sdn", (2, 2))
    heads = (4 * 9 + 1) * 4 + (4 * 9 + 1) * 4 + (4 + 1) * 4 + 2 * 2  # one mix for each task at each AC
    assert exit_costs(network).parameters == 9 * 4 + 9 * 16 + 2 * 2 * 4 + heads


def test_an_ensemble_comes_on_top_of_the_linear_heads(toy_network, toy_benchmark, toy_trainer):
    network = toy_network("sdn", (2, 2))
    heads, ensemble = exit_costs(network), Ensemble()
    ensemble.update(toy_benchmark()[1], network, toy_trainer, Memory())
    cost = exit_costs(network, ensemble)
    assert cost.plain == heads.plain
    assert [more - less for more, less in zip(cost.exits, heads.exits, strict=True)] == [1 * 4, 3 * 4, 6 * 4]
