"""X-DER: its loss, the logits that it rewrites, and its fixed classifier."""

import math

import pytest
import torch
import torch.nn.functional as F

from cl_ac.approaches.xder import XDER, statistics_kept
from cl_ac.approaches.xder_ce import XDERCE
from cl_ac.approaches.xder_rpc import XDERRPC
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.losses import transplanted
from cl_ac.memory import Memory

# [E = 3, N = 6, 5 classes] of tasks with two and one class and two to come; images 0 and 1 are new, the others drawn
# from memory: 2 and 3 by the first draw, 4 and 5 by the second, and 3 and 4 are the same exemplar.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(5)] for n in range(6)] for e in range(3)]
STORED = [[[(3 * e + 2 * n + 5 * c) % 7 / 3 for c in range(5)] for e in range(3)] for n in range(4)]
TARGETS, INDEX = [2, 2, 0, 1, 1, 0], [0, 2, 2, 3]


def cross_entropy(row: list[float], target: int) -> float:
    return math.log(sum(math.exp(value) for value in row)) - row[target]


def expected(e: int, to_come: bool, constraint: float, margin: float) -> float:
    rows = LOGITS[e]
    stream = sum(cross_entropy(rows[n][2:] if to_come else rows[n][2:3], 0) for n in (0, 1)) / 2
    squares = [(rows[n][c] - STORED[INDEX[n - 2]][e][c]) ** 2 for n in (2, 3) for c in range(5)]
    replayed = sum(cross_entropy(rows[n][:2], TARGETS[n]) for n in (4, 5)) / 2
    excess = []
    for n in (0, 1, 2, 3, 5):
        own = rows[n][2:3] if n < 2 else rows[n][:2]
        excess.append(max(0.0, margin + max(rows[n][3:]) - max(own)))
    violations = [value for value in excess if value > 0]
    constrained = sum(violations) / max(len(violations), 1)
    if to_come:
        past = []
        for n in (0, 1):
            powers = [math.exp(value) for value in rows[n][:3]]
            past.append(max(0.0, margin + (max(powers[:2]) - powers[2]) / sum(powers)))
        violations = [value for value in past if value > 0]
        constrained += sum(violations) / max(len(violations), 1)
    return stream + 0.1 * sum(squares) / 10 + 0.5 * replayed + constraint * constrained


@pytest.fixture
def second_task(numbered_network, numbered_batch, monkeypatch):
    """Makes an approach at its second task and the loss of its batch, each image with logits of its own."""

    def make(form=XDERRPC, exits=3, **options):
        approach = form(5, **options)
        approach.task_of_class, approach.replays = torch.tensor([0, 0, 1]), torch.zeros(4)
        approach.stored = torch.tensor(STORED)[:, -exits:]
        answers = numbered_network(torch.tensor(LOGITS)[-exits:])
        monkeypatch.setattr(approach, "every_logit", lambda network, images: answers(images))
        draws = [
            numbered_batch(numbers, [TARGETS[n] for n in numbers], (2, 1), extras={"index": torch.tensor(index)})
            for numbers, index in (([2, 3], INDEX[:2]), ([4, 5], INDEX[2:]))
        ]
        batch = numbered_batch([0, 1], TARGETS[:2], (2, 1), replay=tuple(draws))
        return approach, lambda: approach.loss(None, batch)

    return make


@pytest.mark.parametrize("exits", [1, 3])
@pytest.mark.parametrize(("constraint", "margin"), [(0.1, 0.3), (2.0, 1.0)])
@pytest.mark.parametrize("form", [XDERRPC, XDERCE])
def test_loss_is_that_of_the_paper(form, exits, constraint, margin, second_task):
    _, loss = second_task(form, exits, constraint=constraint, margin=margin)
    wanted = [expected(e, form is XDERCE, constraint, margin) for e in range(3)]
    assert loss().tolist() == pytest.approx(wanted[-exits:], rel=1e-5)


def test_replayed_exemplars_get_new_logits_of_newer_classes_less_and_less_often(second_task):
    approach, loss = second_task()
    loss()
    # The first time, whatever is drawn: of image 3, not of its copy 4.
    assert approach.replays.tolist() == [1, 0, 1, 1]
    before = torch.tensor(STORED)
    for row, image in ((0, 2), (2, 3), (3, 5)):
        now = approach.stored[row].clone()
        assert torch.equal(now[:, :2], before[row, :, :2])
        logits, known = torch.tensor(LOGITS)[:, image : image + 1], before[row, :, None]
        wanted = transplanted(logits[..., 2:], known, torch.tensor(TARGETS[image : image + 1]), approach.share)
        torch.testing.assert_close(now[:, 2:], wanted[:, 0])
    assert torch.equal(approach.stored[1], before[1])
    rewritten = 0
    for _ in range(300):
        approach.stored, approach.replays = before.clone(), torch.tensor([3.0, 0.0, 3.0, 3.0])
        loss()
        rewritten += int((approach.stored[0] != before[0]).any())
    assert 45 < rewritten < 105  # 300 / 4, within four deviations


def test_transplants_stay_below_the_logit_of_the_own_class():
    known = torch.tensor([[[2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]])
    block = torch.tensor([[[3.0, 1.0], [1.0, 0.5], [2.0, 1.0]]])
    result = transplanted(block, known, torch.zeros(3, dtype=torch.int64), 0.85)
    torch.testing.assert_close(result, torch.tensor([[[1.7, 1.7 / 3], [1.0, 0.5], [-1.15, -2.15]]]))


@pytest.mark.parametrize("form", [XDERRPC, XDERCE, XDER])
def test_stored_logits_belong_to_their_exemplars(form, toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach = form(7)
    network = toy_network("sdn", sizes=(), classifier=approach.build_classifier)
    approach.memory = Memory(12)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    earlier, images = approach.stored.clone(), approach.memory.images.clone()
    toy_learn(approach, network, tasks[1:2])
    assert approach.stored.shape == (12, 3, 7)
    assert approach.memory.samples.extras["index"].tolist() == list(range(12))
    answers = toy_trainer.predict(network, approach.memory.samples, lambda x: approach.every_logit(network, x))
    for index, (image, target) in enumerate(zip(approach.memory.images, approach.memory.targets, strict=True)):
        stored, now = approach.stored[index], answers[:, index]
        if target < 2:
            (source,) = (images == image).flatten(1).all(1).nonzero()[:, 0]
            assert torch.equal(stored[:, :2], earlier[source][:, :2])
            moved = slice(2, 7)
        else:
            torch.testing.assert_close(stored[:, 2:], now[:, 2:], rtol=1e-4, atol=1e-5)
            moved = slice(0, 2)
        wanted = transplanted(now[:, None, moved], stored[:, None], target[None], approach.share)[:, 0]
        torch.testing.assert_close(stored[:, moved], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [XDERRPC, XDERCE])
def test_logits_of_all_classes_begin_with_the_answers(form, toy_network):
    approach = form(7)
    network = toy_network("sdn", (2, 2), classifier=approach.build_classifier).eval()
    images = torch.randn(3, 1, 6, 6)
    every = approach.every_logit(network, images)
    assert every.shape == (3, 3, 7)
    assert torch.equal(every[..., :4], network(images))
    before = every.detach()
    network.grow(3, 0)
    torch.testing.assert_close(network(images).detach(), before)


def test_less_than_two_vertices_are_refused():
    with pytest.raises(ConfigurationError, match=r"approach\.classes is 1"):
        XDERRPC(1)


def test_the_first_task_has_no_exemplars(toy_network, toy_benchmark, toy_trainer):
    approach = XDERRPC(7, constraint=2.0, margin=5.0)
    network = toy_network("sdn", (2,), classifier=approach.build_classifier).eval()
    task = toy_benchmark()[0]
    approach.begin_task(task, network, toy_trainer)
    images = torch.randn(2, 1, 6, 6)
    none = Batch(images[:0], torch.empty(0, dtype=torch.int64), task)
    loss = approach.loss(network, Batch(images, torch.tensor([0, 1]), task, replay=(none, none)))
    every = approach.every_logit(network, images)
    excess = F.relu(5.0 + every[..., 2:].amax(-1) - every[..., :2].amax(-1)).mean(1)
    own = torch.stack([F.cross_entropy(rows[:, :2], torch.tensor([0, 1])) for rows in every])
    torch.testing.assert_close(loss, own + 2.0 * excess)


def test_classes_to_come_are_prepared_by_contrast(toy_network, toy_benchmark, toy_trainer):
    approach = XDER(7, strength=0.0, replay_weight=0.0, constraint=0.0, preparation=2.0, views=2, contrasted=3)
    network = toy_network("sdn", (2, 2), classifier=approach.build_classifier)
    tasks = toy_benchmark().tasks
    data = approach.training_set(tasks[1])
    assert data.replay == (None, None, 3)
    assert len(data.views) == 2
    for task in tasks[:2]:
        approach.begin_task(task, network, toy_trainer)
    approach.stored, approach.replays = torch.zeros(1, 3, 7), torch.zeros(1)
    stream = torch.Generator().manual_seed(0)

    def batch(targets, **options):
        images = torch.randn(3, len(targets), 1, 6, 6, generator=stream)
        return Batch(images[0], torch.tensor(targets), tasks[1], views=(images[1], images[2]), **options)

    draws = tuple(batch([0], extras={"index": torch.tensor([0])}) for _ in range(2))
    whole = batch([2, 3, 3, 2], replay=(*draws, batch([0, 1, 1])))
    statistics = [value.clone() for value in network.buffers()]
    contrast = approach.contrast(network, whole)
    assert all(torch.equal(old, new) for old, new in zip(statistics, network.buffers(), strict=True))
    # Of both views, the first three new images and the three exemplars.
    images = torch.cat([part.views[view][:3] for view in (0, 1) for part in (whole, whole.replay[2])])
    targets = torch.tensor([2, 3, 3, 0, 1, 1] * 2)
    with statistics_kept(network):
        future = approach.every_logit(network, images)[..., 4:].detach().double()
    for e in range(3):
        losses = []
        # Three classes to come, where the task has two: groups of two and of one.
        for group in (future[e, :, :2], future[e, :, 2:]):
            outputs = F.normalize(group, dim=1)
            for anchor in range(12):
                others = [n for n in range(12) if n != anchor]
                logs = torch.stack([outputs[anchor] @ outputs[n] / 5 for n in others]).log_softmax(0)
                same = [log for n, log in zip(others, logs, strict=True) if targets[n] == targets[anchor]]
                losses.append(-sum(same) / len(same))
        assert contrast[e].item() == pytest.approx((sum(losses) / 24).item(), rel=1e-4)
    network.eval()
    without = XDERCE.loss(approach, network, whole)
    assert torch.allclose(approach.loss(network, whole), without + 2.0 * approach.contrast(network, whole))
    approach.classes = 4
    assert approach.training_set(tasks[1]).views == ()


@pytest.mark.parametrize("settings", [{"views": 1}, {"contrasted": 0}])
def test_wrong_views_are_named(settings):
    with pytest.raises(ConfigurationError, match=r"XDER\.views is .* and XDER\.contrasted"):
        XDER(**settings)
