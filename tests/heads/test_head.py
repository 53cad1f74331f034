"""Heads grow by rows, and rows of earlier tasks can be frozen exactly."""

import pytest
import torch
import torch.nn.functional as F

from cl_ac.exits.heads import inference_head
from cl_ac.heads import (
    Cascade,
    GrowingCosine,
    GrowingLinear,
    Head,
    MixedHead,
    PooledHead,
    TokenHead,
    build_head,
)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def grown(classifier, *sizes):
    for index, size in enumerate(sizes):
        classifier.grow(size, stream(index))
    return classifier


def cosines_with_three_proxies(in_features):
    return GrowingCosine(in_features, proxies=3)


@pytest.fixture
def features():
    return torch.randn(5, 8, generator=stream(9))


@pytest.mark.parametrize("build", [GrowingLinear, GrowingCosine, cosines_with_three_proxies])
def test_growing_keeps_the_old_logits(build, features):
    classifier = grown(build(8), 2)
    before = classifier(features)
    classifier.grow(3, stream(1))
    after = classifier(features)
    assert after.shape == (5, 5)
    torch.testing.assert_close(after[:, :2], before)


@pytest.mark.parametrize("build", [GrowingLinear, GrowingCosine, cosines_with_three_proxies])
def test_frozen_rows_do_not_move_under_weight_decay_and_momentum(build, features):
    classifier = grown(build(8), 2, 2)
    for rows in classifier.old_rows:
        rows.requires_grad_(False)
    old, new = classifier.old_weight.clone(), classifier.new_weight.detach().clone()
    learning = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(classifier(features), torch.tensor([0, 1, 2, 3, 0])).backward()
        optimizer.step()
    assert torch.equal(classifier.old_weight, old)
    assert not torch.equal(classifier.new_weight, new)


def test_cosine_logits_by_hand():
    classifier = grown(GrowingCosine(2), 1, 1)
    with torch.no_grad():
        classifier.old_weight.copy_(torch.tensor([[3.0, 4.0]]))
        classifier.new_weight.copy_(torch.tensor([[0.0, 2.0]]))
        classifier.scale.fill_(5.0)
    # cos = (1·3 + 0·4)/5 and 0; a feature's length does not matter.
    torch.testing.assert_close(classifier(torch.tensor([[7.0, 0.0]])), torch.tensor([[3.0, 0.0]]))


def test_proxies_are_weighted_by_the_softmax_of_their_cosines():
    classifier = grown(GrowingCosine(2, proxies=2), 1)
    with torch.no_grad():
        classifier.new_weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    # Cosines 0.6 and 0.8.
    first = 1 / (1 + 2.718281828459045**0.2)
    expected = first * 0.6 + (1 - first) * 0.8
    torch.testing.assert_close(classifier(torch.tensor([[3.0, 4.0]])), torch.tensor([[expected]]))


def test_linear_rows_start_as_those_of_torch():
    classifier = grown(GrowingLinear(16), 100)
    bound = 1 / 4
    assert classifier.weight.abs().max() <= bound
    assert classifier.weight.abs().max() > 0.95 * bound
    assert classifier.bias.abs().max() <= bound


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 7, 5), (3, 1, 1)])
def test_a_pooled_head_mixes_poolings_with_one_mix_per_task(shape):
    head = build_head(shape, 2, GrowingLinear)
    assert isinstance(head, PooledHead)
    grown(head, 2, 3)
    hidden = torch.randn(4, *shape, generator=stream(5))
    size = (-(-shape[1] // 2), -(-shape[2] // 2))
    maximum = F.adaptive_max_pool2d(hidden, size).flatten(1)
    average = F.adaptive_avg_pool2d(hidden, size).flatten(1)
    logits = []
    for mix, weight, bias in (
        (head.old_mix, head.classifier.old_weight, head.classifier.old_bias),
        (head.new_mix, head.classifier.new_weight, head.classifier.new_bias),
    ):
        pooled = mix * maximum + (1 - mix) * average
        logits.append(pooled @ weight.T + bias)
    torch.testing.assert_close(head(hidden), torch.cat(logits, 1))


@pytest.mark.parametrize("shape", [(3, 8, 8), (5, 6), (7,)])
def test_features_stay_the_same_when_the_head_grows(shape):
    head = grown(build_head(shape, 2, GrowingLinear), 2)
    hidden = torch.randn(4, *shape, generator=stream(5))
    before = head.features(hidden)
    grown(head, 3)
    assert torch.equal(head.features(hidden), before)


@pytest.mark.parametrize(("shape", "wider"), [((3, 8, 8), (5, 8, 8)), ((5, 6), (5, 9)), ((7,), (10,))])
@pytest.mark.parametrize("build", [GrowingLinear, GrowingCosine])
def test_a_wider_head_reads_new_channels_behind_the_earlier_ones(shape, wider, build):
    head = grown(build_head(shape, 2, build), 2, 3)
    old = head.classifier.weight.detach()
    head.widen(wider, stream(7))
    assert torch.equal(head.classifier.weight[:, : old.shape[1]], old)
    assert head.classifier.in_features == head.features_in(wider) > old.shape[1]
    hidden = torch.randn(4, *wider, generator=stream(5))
    assert head(hidden).shape == (4, 5)
    other = build_head(shape, 2, build)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(hidden), head(hidden))


def test_new_columns_start_as_those_of_torch():
    classifier = grown(GrowingLinear(4), 500)
    classifier.widen(16, stream(3))
    added = classifier.weight[:, 4:]
    assert 0.95 / 4 < added.abs().max() <= 1 / 4


@pytest.mark.parametrize("build", [GrowingLinear, GrowingCosine])
def test_a_reset_draws_all_rows_from_its_stream_alone(build):
    heads = [Head(grown(build(8), 2, 3), cascade) for cascade in (None, Cascade())]
    heads[1].cascade.grow(5)
    heads[1].cascade.new_weight.data.fill_(2.0)
    heads[1].classifier.old_weight.data.fill_(0.5)
    for head in heads:
        head.reset(stream(4))
    assert torch.equal(heads[0].classifier.weight, heads[1].classifier.weight)
    assert not torch.equal(heads[0].classifier.weight, grown(build(8), 2, 3).weight)
    assert not heads[1].cascade.new_weight.any()


@pytest.mark.parametrize(
    ("shape", "pool"),
    [((3, 8, 8), 2), ((3, 6, 9), 3), ((3, 7, 5), 2), ((3, 1, 1), 2), ((3, 4, 4), 1), ((5, 6), 2), ((7,), 2)],
)
@pytest.mark.parametrize("sizes", [(4,), (2, 3)])
@pytest.mark.parametrize("build", [GrowingLinear, GrowingCosine])
@pytest.mark.parametrize("cascade", [False, True])
def test_the_inference_form_is_the_same_function(shape, pool, sizes, build, cascade):
    head = grown(build_head(shape, pool, build, Cascade() if cascade else None), *sizes).double()
    previous = torch.randn(4, sum(sizes), generator=stream(6), dtype=torch.float64)
    if cascade:
        torch.nn.init.normal_(head.cascade.new_weight, generator=stream(7))
    hidden = torch.randn(4, *shape, generator=stream(5), dtype=torch.float64)
    maps = [hidden, hidden.contiguous(memory_format=torch.channels_last)] if len(shape) == 3 else [hidden]
    fast = inference_head(head)
    expected = head(hidden, previous).detach()
    for given in maps:
        torch.testing.assert_close(fast(given, previous), expected)
    with torch.no_grad():
        for rows in [*head.old_rows, *head.new_rows]:
            rows.zero_()
    torch.testing.assert_close(fast(hidden, previous), expected)
    assert not any(parameter.requires_grad for parameter in fast.parameters())


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 7, 5), (5, 6), (7,)])
@pytest.mark.parametrize("build", [GrowingLinear, GrowingCosine])
def test_a_head_answers_from_what_it_reduces(shape, build):
    head = grown(build_head(shape, 2, build), 2, 3)
    hidden = torch.randn(4, *shape, generator=stream(5))
    reduced = head.reduce(hidden)
    assert len(reduced) == 4
    assert torch.equal(head.answer(reduced), head(hidden))


def test_a_cascade_by_hand():
    cascade = Cascade()
    for classes in (2, 1):
        cascade.grow(classes)
    with torch.no_grad():
        cascade.old_weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 1.0]]))
        cascade.new_weight.copy_(torch.tensor([[0.0, 1.0, 3.0]]))
    previous = torch.tensor([[1.0, 3.0, 8.0]])
    # Rows of the first task see the logits less 2 and over 1, the third row less 4 and over the deviation of 1, 3, 8.
    deviation = (26 / 3) ** 0.5
    expected = [-1.0, 2 * 1.0 + 6.0, (-1.0 + 3 * 4.0) / deviation]
    torch.testing.assert_close(cascade(previous), torch.tensor([expected]), atol=1e-4, rtol=1e-4)


def test_growing_keeps_what_a_cascade_says():
    head = build_head((3, 4, 4), 2, GrowingLinear, Cascade())
    grown(head, 2, 3)
    for rows in (head.cascade.old_weight, head.cascade.new_weight):
        torch.nn.init.normal_(rows, generator=stream(3))
    hidden, previous = torch.randn(4, 3, 4, 4, generator=stream(1)), torch.randn(4, 5, generator=stream(2))
    before = head(hidden, previous)
    head.grow(2, stream(4))
    more = torch.cat([previous, 50 * torch.randn(4, 2, generator=stream(5))], 1)
    torch.testing.assert_close(head(hidden, more)[:, :5], before)


def test_a_new_cascade_answers_as_the_head_alone():
    alone, cascading = (grown(build_head((3, 4, 4), 2, GrowingLinear, each), 2, 3) for each in (None, Cascade()))
    hidden = torch.randn(4, 3, 4, 4, generator=stream(1))
    previous = torch.randn(4, 5, generator=stream(2), requires_grad=True)
    assert torch.equal(cascading(hidden, previous), alone(hidden))
    cascading(hidden, previous).sum().backward()
    assert previous.grad is None
    assert cascading.cascade.new_weight.grad.any(), "zeros must be able to learn"


def test_frozen_rows_of_a_cascade_belong_to_old_classes():
    head = grown(build_head((6,), 2, GrowingLinear, Cascade()), 2, 3)
    assert any(rows is head.cascade.old_weight for rows in head.old_rows)
    assert any(rows is head.cascade.new_weight for rows in head.new_rows)
    assert head.cascade.old_weight.shape == (2, 5)


def test_a_state_with_a_cascade_loads():
    source, target = (build_head((6,), 2, GrowingLinear, Cascade()) for _ in range(2))
    grown(source, 2, 3)
    torch.nn.init.normal_(source.cascade.new_weight, generator=stream(3))
    target.load_state_dict(source.state_dict())
    hidden, previous = torch.randn(2, 6), torch.randn(2, 5)
    assert torch.equal(source(hidden, previous), target(hidden, previous))


def test_a_cosine_classifier_reads_one_mixed_vector():
    head = grown(build_head((3, 4, 4), 2, GrowingCosine), 2, 2)
    assert isinstance(head, MixedHead)
    hidden = torch.randn(4, 3, 4, 4, generator=stream(5))
    pooled = 0.5 * F.max_pool2d(hidden, 2) + 0.5 * F.avg_pool2d(hidden, 2)
    torch.testing.assert_close(head.features(hidden), pooled.flatten(1))
    cosines = F.cosine_similarity(pooled.flatten(1)[:, None], head.classifier.weight[None], dim=-1)
    torch.testing.assert_close(head(hidden), cosines)


def test_the_head_fits_the_shape():
    assert type(build_head((3, 4, 4), 2, GrowingLinear)) is PooledHead
    assert type(build_head((7, 16), 2, GrowingLinear)) is TokenHead
    assert type(build_head((16,), 2, GrowingLinear)) is Head


def test_a_token_head_normalises_the_first_token():
    head = grown(build_head((5, 6), 2, GrowingLinear), 2)
    hidden = torch.randn(3, 5, 6, generator=stream(5)) * 4 + 1
    token = head.features(hidden)
    torch.testing.assert_close(token.mean(-1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(token, F.layer_norm(hidden[:, 0], (6,)))


def test_a_state_with_more_classes_loads():
    source, target = grown(build_head((3, 4, 4), 2, GrowingLinear), 2, 3), build_head((3, 4, 4), 2, GrowingLinear)
    target.load_state_dict(source.state_dict())
    hidden = torch.randn(2, 3, 4, 4)
    assert torch.equal(source(hidden), target(hidden))
