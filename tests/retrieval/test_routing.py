"""Routing by prototypes: which domain, how much of each, and what is left to the base model."""

import pytest
import torch
import torch.nn.functional as F

from cl_ac.errors import ConfigurationError
from cl_ac.retrieval.routing import PrototypeRouter, rounded


def around(direction: list[float], count: int = 50, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(count, len(direction), generator=torch.Generator().manual_seed(seed))
    return F.normalize(torch.tensor(direction) + 0.1 * noise, dim=1)


@pytest.fixture
def router() -> PrototypeRouter:
    made = PrototypeRouter(top=2, temperature=0.1, prototypes=2, unknown=0.02)
    for side in range(2):
        made.add(side, torch.cat([around([1.0, 0, 0, 0]), around([0, 1.0, 0, 0])]), seed=0)
        made.add(side, around([0, 0, 1.0, 0]), seed=0)
        made.add(side, around([0.7, 0, 0.7, 0]), seed=0)
    return made


def test_a_domain_is_as_like_as_its_nearest_prototype(router):
    scores = router.scores(0, torch.eye(4))
    assert scores.argmax(1)[:3].tolist() == [0, 0, 1]
    assert min(scores[0, 0], scores[1, 0]) > 0.98
    assert scores[0, 2].item() == pytest.approx(0.7, abs=0.05)


def test_the_best_domains_share_the_weight_by_a_softmax(router):
    query = F.normalize(torch.tensor([[1.0, 0, 0.1, 0]]))
    weights, scores = router.weights(1, query), router.scores(1, query)[0]
    expected = (scores[[0, 2]] / 0.1).softmax(0)
    assert weights[0, [0, 2]].tolist() == pytest.approx(expected.tolist())
    assert weights[0, 1] == 0
    assert router.weights(1, query, top=1).tolist() == [[1, 0, 0]]


def test_a_query_of_no_domain_is_left_to_the_base_model(router):
    stranger = torch.tensor([[0.0, 0, 0, 1.0]])
    assert not router.weights(0, stranger).any()
    assert router.weights(0, stranger, guarded=False).sum() == pytest.approx(1)
    assert router.is_known(0, router.scores(0, around([0, 0, 1.0, 0], seed=0))).double().mean() >= 0.98


def test_a_state_brings_the_domains_along(router):
    fresh = PrototypeRouter(top=2, temperature=0.1, prototypes=2, unknown=0.02)
    fresh.load_state_dict(router.state_dict())
    assert torch.equal(fresh.weights(0, torch.eye(4)), router.weights(0, torch.eye(4)))


def test_rounded_weights_add_up_and_keep_the_largest():
    weights = torch.tensor([[0.9, 0.1, 0], [0.55, 0.45, 0], [0.34, 0.33, 0.33], [0.0, 0, 0]])
    assert rounded(weights, 4).tolist() == [[1, 0, 0], [0.5, 0.5, 0], [pytest.approx(1 / 3)] * 3, [0, 0, 0]]
    assert rounded(weights, 1)[2].tolist() == [1, 0, 0]


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match="top is 0 and prototypes 5; both must be at least 1"):
        PrototypeRouter(top=0)
    with pytest.raises(ConfigurationError, match=r"temperature is 0 and unknown 0\.01; the first must be above 0"):
        PrototypeRouter(temperature=0)
