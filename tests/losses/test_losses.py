"""Each loss equals a value worked out in plain Python floats, exit by exit."""

import math

import pytest
import torch

from cl_ac import losses

# Two exits, three samples, four classes in two tasks of two.
LOGITS = [
    [[1.0, -0.5, 0.25, 2.0], [0.0, 0.5, 1.5, -1.0], [2.0, 1.0, 0.0, -2.0]],
    [[0.5, 0.5, -1.0, 0.0], [1.0, -1.0, 0.5, 3.0], [-0.5, 0.25, 0.75, 1.0]],
]
OLD = [
    [[0.5, 0.0, 1.0], [1.0, -1.0, 0.0], [0.0, 2.0, -0.5]],
    [[-1.0, 1.0, 0.5], [0.25, 0.5, 0.0], [1.5, 0.0, 0.5]],
]
TARGETS = [0, 2, 3]


def softmax(values, temperature=1.0):
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def soft_cross_entropy(student, teacher, temperature):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def check(actual: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


@pytest.fixture
def logits():
    return torch.tensor(LOGITS, requires_grad=True)


@pytest.fixture
def old():
    return torch.tensor(OLD)


def test_cross_entropy_over_all_classes(logits):
    expected = [mean(-math.log(softmax(z)[y]) for z, y in zip(rows, TARGETS, strict=True)) for rows in LOGITS]
    check(losses.cross_entropy(logits, torch.tensor(TARGETS)), expected)


def test_cross_entropy_of_the_newest_task_reaches_its_columns_only(logits):
    targets = [2, 3, 2]
    expected = [mean(-math.log(softmax(z[2:])[y - 2]) for z, y in zip(rows, targets, strict=True)) for rows in LOGITS]
    loss = losses.cross_entropy(logits, torch.tensor(targets), slice(2, 4))
    check(loss, expected)
    loss.sum().backward()
    assert (logits.grad[..., :2] == 0).all()
    assert (logits.grad[..., 2:] != 0).all()


def test_cross_entropy_among_the_classes_that_are_present(logits):
    # Class 1 occurs in no target, and neither competes nor learns.
    expected = [
        mean(-math.log(softmax([z[0], z[2], z[3]])[y]) for z, y in zip(rows, [0, 1, 2], strict=True)) for rows in LOGITS
    ]
    loss = losses.present_cross_entropy(logits, torch.tensor(TARGETS))
    check(loss, expected)
    loss.sum().backward()
    assert (logits.grad[..., 1] == 0).all()
    assert (logits.grad[..., [0, 2, 3]] != 0).all()
    check(losses.present_cross_entropy(torch.tensor([[[5.0, 1.0, 1.0]] * 2]), torch.tensor([1, 2])), [math.log(2)])


def test_cross_entropy_of_every_sample_within_its_own_task(logits):
    tasks = [slice(0, 2), slice(2, 3)]
    expected = [[-math.log(softmax(rows[0][:2])[0]), 0.0, 0.0] for rows in LOGITS]
    loss = losses.taskwise_cross_entropy_per_sample(logits, torch.tensor(TARGETS), tasks)
    torch.testing.assert_close(loss.detach(), torch.tensor(expected))
    loss.sum().backward()
    assert (logits.grad[:, 0, :2] != 0).all()
    # A class that is alone has nothing to learn, and the last sample's class is of no task here.
    assert (logits.grad[:, :, 2:] == 0).all()
    assert (logits.grad[:, 1:] == 0).all()


def test_an_empty_batch_adds_nothing():
    empty, targets = torch.zeros(3, 0, 4), torch.zeros(0, dtype=torch.int64)
    assert losses.cross_entropy(empty, targets).tolist() == [0, 0, 0]
    assert losses.global_distillation(empty, empty).tolist() == [0, 0, 0]


def test_function_distance(logits, old):
    stored = torch.cat([old, torch.full_like(old[..., :1], -math.inf)], -1)
    expected = [
        mean(math.dist(softmax(z), [*softmax(r), 0.0]) for z, r in zip(rows, olds, strict=True))
        for rows, olds in zip(LOGITS, OLD, strict=True)
    ]
    check(losses.function_distance(logits, stored), expected)
    certain = torch.tensor([[[50.0, -50.0]]], requires_grad=True)
    check(losses.function_distance(certain, -certain.detach()), [math.sqrt(2)])
    losses.function_distance(certain, certain.detach()).backward()
    assert (certain.grad == 0).all()


def test_taskwise_distillation(logits, old):
    def divergence(student, teacher):
        p, q = softmax(teacher, 2), softmax(student, 2)
        return 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    # Old tasks of two classes and one class; a single class has nothing to distil.
    expected = [
        mean(divergence(z[:2], r[:2]) + divergence(z[2:3], r[2:]) for z, r in zip(rows, olds, strict=True))
        for rows, olds in zip(LOGITS, OLD, strict=True)
    ]
    check(losses.taskwise_distillation(logits, old, [slice(0, 2), slice(2, 3)]), expected)


def test_global_distillation_leaves_new_classes_alone(logits, old):
    expected = [
        mean(soft_cross_entropy(z[:3], r, 2) for z, r in zip(rows, olds, strict=True))
        for rows, olds in zip(LOGITS, OLD, strict=True)
    ]
    loss = losses.global_distillation(logits, old)
    check(loss, expected)
    loss.sum().backward()
    assert (logits.grad[..., 3] == 0).all()


def test_published_smoothing_of_global_distillation_is_below_the_precision_of_interest():
    student, teacher, eps = LOGITS[0][0][:3], OLD[0][0], 1e-5
    q = [(value + eps / 3) / (1 + eps) for value in softmax(student, 2)]
    published = -sum(a * math.log(b) for a, b in zip(softmax(teacher, 2), q, strict=True))
    ours = losses.global_distillation(torch.tensor([[student]]), torch.tensor([[teacher]])).item()
    assert abs(ours - published) < 1e-5


def test_multilabel_distillation(logits, old):
    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    def both_terms(s, r):
        return -sigmoid(r) * math.log(sigmoid(s)) - (1 - sigmoid(r)) * math.log(1 - sigmoid(s))

    expected = [
        mean(sum(both_terms(s, t) for s, t in zip(z[:3], r, strict=True)) for z, r in zip(rows, olds, strict=True))
        for rows, olds in zip(LOGITS, OLD, strict=True)
    ]
    check(losses.multilabel_distillation(logits, old), expected)


def test_auxiliary_distillation_reads_the_new_classes(logits):
    auxiliary = [[[value * 0.5 + 0.1 * index for index, value in enumerate(z)] for z in rows] for rows in LOGITS]
    expected = [
        mean(soft_cross_entropy(z[2:], a[2:], 2) for z, a in zip(rows, auxiliaries, strict=True))
        for rows, auxiliaries in zip(LOGITS, auxiliary, strict=True)
    ]
    check(losses.auxiliary_distillation(logits, torch.tensor(auxiliary), slice(2, 4)), expected)


@pytest.mark.parametrize("kind", ["taskwise", "global", "multilabel"])
def test_distillation_by_name_is_least_at_the_teacher(kind, old):
    tasks = [slice(0, 2), slice(2, 3)]
    student = old.clone().requires_grad_()
    losses.distillation(kind, student, old, tasks).sum().backward()
    assert student.grad.abs().max() < 1e-6
    moved = losses.distillation(kind, old + torch.tensor([0.3, 0.0, -0.2]), old, tasks)
    assert (moved > losses.distillation(kind, old, old, tasks)).all()


def test_feature_distillation_is_one_minus_the_cosine():
    new, old = [[3.0, 4.0], [1.0, 0.0]], [[4.0, 3.0], [0.0, 2.0]]
    expected = mean([1 - 24 / 25, 1 - 0])
    features = [torch.tensor(new), torch.tensor(old)]
    check(losses.feature_distillation(features, [torch.tensor(old), torch.tensor(old)]), [expected, 0.0])


def test_margin_ranking_counts_old_samples_and_strongest_rivals():
    cosines = [[0.2, 0.6, 0.1, 0.5, -0.3], [0.9, 0.0, 0.8, 0.1, 0.45]]
    # Two old classes. The first sample is of class 1; the second, of class 3, is new and does not count.
    expected = mean([max(0, 0.5 - 0.6 + 0.5), max(0, 0.5 - 0.6 + 0.1)])
    actual = losses.margin_ranking(torch.tensor([cosines]), torch.tensor([1, 3]), slice(0, 2), slice(2, 5), 0.5, 2)
    check(actual, [expected])
    none_old = losses.margin_ranking(torch.tensor([cosines]), torch.tensor([2, 3]), slice(0, 2), slice(2, 5), 0.5, 2)
    assert none_old.tolist() == [0]


def test_nca_leaves_the_target_out_of_the_sum(logits):
    margins = [0.6, 1.2]

    def hinge(z, y, margin):
        return max(0, -(z[y] - margin) + math.log(sum(math.exp(value) for c, value in enumerate(z) if c != y)))

    expected = [
        mean(hinge(z, y, margin) for z, y in zip(rows, TARGETS, strict=True))
        for rows, margin in zip(LOGITS, margins, strict=True)
    ]
    check(losses.nca(logits, torch.tensor(TARGETS), torch.tensor(margins)), expected)


def test_nca_of_a_single_class_is_zero_with_zero_gradient():
    logits = torch.zeros(1, 2, 1, requires_grad=True)
    losses.nca(logits, torch.zeros(2, dtype=torch.int64), torch.tensor([0.6])).sum().backward()
    assert logits.grad.tolist() == [[[0], [0]]]


def test_spatial_distillation_joins_row_and_column_sums_of_squares():
    new, old = [[1.0, 2.0], [0.0, -1.0]], [[0.0, 1.0], [1.0, 0.0]]

    def joined(image):
        squares = [[value**2 for value in row] for row in image]
        sums = [sum(row) for row in squares] + [sum(column) for column in zip(*squares, strict=True)]
        length = math.sqrt(sum(value**2 for value in sums))
        return [value / length for value in sums]

    distance = math.dist(joined(new), joined(old))
    a, b = torch.tensor([[new]]), torch.tensor([[old]])
    check(losses.spatial_distillation([[a], [a, b]], [[b], [b, b]]), [distance, distance / 2])


def test_binary_distillation_of_a_softmax_against_itself_is_the_mean_of_binary_entropies():
    two = torch.tensor([[[0.0, math.log(3.0)]]])
    check(losses.binary_softmax_distillation(two, two, 1.0), [0.5623351])
    three = torch.tensor([[[0.2, 0.3, 0.5]]]).log()
    check(losses.binary_softmax_distillation(three, three, 1.0), [0.6014683])
    check(losses.global_distillation(three, three, 1.0), [1.0296530])


def test_binary_distillation_of_certain_softmaxes_is_finite():
    logits = torch.tensor([[[200.0, 0.0], [0.0, 200.0]]], requires_grad=True)
    loss = losses.binary_softmax_distillation(logits, torch.tensor([[[0.0, 200.0], [200.0, 0.0]]]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()


def test_attention_distance_compares_directions():
    maps = [torch.tensor([[[3.0, 0.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 1.0]], [[3.0, 4.0]]])]
    old = [torch.tensor([[[0.0, 0.5]], [[0.0, 2.0]]]), torch.tensor([[[0.0, 2.0]], [[4.0, 3.0]]])]
    check(losses.attention_distance(maps, old), [(2 + 1) / 2, (0 + 0.4) / 2])


def test_past_constraint_trains_new_classes_only_and_where_it_is_violated():
    logits = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 0.0, 9.0]], [[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]], requires_grad=True)
    loss = losses.past_constraint(logits, slice(0, 2), slice(2, 3), 0.3)
    probabilities = softmax([1.0, 0.0, 0.5])
    check(loss, [0.3 + probabilities[0] - probabilities[2], 0.0])
    loss.sum().backward()
    # Minus the gradient of the probability of the new class alone.
    p = probabilities[2]
    wanted = [p * probabilities[0], p * probabilities[1], -p * (1 - p)]
    torch.testing.assert_close(logits.grad[0, 0], torch.tensor(wanted))
    assert not logits.grad[0, 1].any()
    check(losses.past_constraint(logits, slice(0, 0), slice(0, 3), 0.3), [0.0, 0.0])


def test_supervised_contrast_by_hand():
    # Directions at 0°, 60°, 90° and 180°; samples 0 and 1 are of one class, 2 and 3 alone in theirs.
    angles = torch.tensor([0.0, 60.0, 90.0, 180.0]).deg2rad()
    vectors = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([1.0, 2.0, 0.5, 3.0])[:, None]
    outputs = torch.stack([vectors, -vectors, vectors.flip(1)]).requires_grad_(True)
    loss = losses.supervised_contrast(outputs, torch.tensor([4, 4, 2, 7]), 0.5)
    cosines = {0: (0.5, 0.0, -1.0), 1: (0.5, math.cos(math.pi / 6), -0.5)}
    expected = sum(math.log(sum(math.exp(c / 0.5) for c in cosines[i])) - 0.5 / 0.5 for i in (0, 1)) / 4
    torch.testing.assert_close(loss, torch.full((3,), expected))
    loss.sum().backward()
    assert outputs.grad.isfinite().all()
    # Without a pair there is nothing to draw together.
    alone = losses.supervised_contrast(outputs, torch.tensor([4, 5, 2, 7]), 0.5)
    assert alone.tolist() == [0, 0, 0]


def test_supervised_contrast_compares_in_float32_under_autocast():
    outputs = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    wanted = losses.supervised_contrast(outputs, targets, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses.supervised_contrast(outputs, targets, 0.1)
    assert torch.equal(found, wanted)


def test_effective_numbers_weigh_classes_with_few_samples_more():
    weights = losses.effective_number_weights(torch.tensor([20, 500]), 0.96)
    assert weights.tolist() == pytest.approx([1.2837, 0.7163], abs=1e-4)
    assert losses.effective_number_weights(torch.tensor([20, 500]), 0.0).tolist() == [1, 1]


def test_balanced_distillation_weighs_soft_targets_and_normalises_them():
    draw = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 3, 5, 4, generator=draw, dtype=torch.float64)
    weights = torch.tensor([2.0, 1.0, 0.5, 1.5])
    targets = (other / 3).softmax(-1) * weights
    targets /= targets.sum(-1, keepdim=True)
    expected = -(targets * (logits / 3).log_softmax(-1)).sum(-1).mean(-1)
    found = losses.balanced_distillation(logits, other, weights, 3.0)
    torch.testing.assert_close(found, expected)
