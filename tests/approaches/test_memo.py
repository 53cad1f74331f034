"""MEMO: which stages branch, auxiliary heads where they do, and rows of one length."""

import pytest
import torch

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.approaches.memo import MEMO
from cl_ac.backbones.branching import branches_at, newest_features
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork
from cl_ac.training import Training


@pytest.fixture
def begun(toy_backbone, toy_trainer, toy_benchmark):
    """Brings an approach to the begin of the second task, with a network with two ACs; returns both and a batch."""

    def make(approach: MEMO) -> tuple[MEMO, ExitNetwork, Batch]:
        backbone = toy_backbone()
        approach.prepare(backbone)
        network = ExitNetwork(backbone, backbone.exits("sdn"))
        tasks = toy_benchmark().tasks
        for task in tasks[:2]:
            approach.expand(task, network, toy_trainer)
            network.grow(task.num_classes, 0)
            approach.begin_task(task, network, toy_trainer)
        images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
        return approach, network, Batch(images, torch.tensor([0, 3, 2, 1, 3]), tasks[1])

    return make


@pytest.mark.parametrize(
    ("branch_from", "counts"), [(None, [1, 2, 2]), ("first", [2, 2, 2]), ("second", [1, 2, 2]), ("pool", [1, 1, 2])]
)
def test_auxiliary_heads_stand_where_branches_are(begun, branch_from, counts):
    approach, network, batch = begun(MEMO(branch_from, auxiliary=0.5))
    assert branches_at(network) == counts
    network.eval()
    logits, features = network(batch.images), newest_features(network, network.features(batch.images))
    expected = -logits.log_softmax(-1)[:, range(5), batch.targets].mean(1)
    shared = counts.count(1)
    assert len(approach.auxiliary_heads) == 3 - shared
    for index, layer in enumerate(approach.auxiliary_heads.layers, start=shared):
        expected[index] -= 0.5 * layer(features[index]).log_softmax(-1)[range(5), [0, 2, 1, 0, 2]].mean()
    torch.testing.assert_close(approach.loss(network, batch), expected)


@pytest.mark.parametrize("train_shared", [True, False])
def test_shared_stages_learn_or_stay(begun, train_shared):
    approach, network, batch = begun(MEMO(train_shared=train_shared))
    network.train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items() if hasattr(value, "clone")}
    optimizer = torch.optim.SGD(approach.learns(network), 0.1, weight_decay=0.1)
    approach.loss(network, batch).sum().backward()
    optimizer.step()
    after = network.backbone.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert any("stages.1.branches.1." in name for name in changed)
    assert not any(".branches.0." in name for name in changed)
    assert ({name for name in before if name.startswith("stages.0.")} <= changed) is train_shared
    assert any(name.startswith("stages.0.") for name in changed) is train_shared


def test_new_rows_get_the_length_of_old_ones(begun, toy_trainer):
    approach, network, batch = begun(MEMO())
    classifier = network.heads[-1].classifier
    classifier.old_weight.data.zero_()[:, :2] = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    classifier.new_weight.data.zero_()[:, :2] = torch.tensor([[6.0, 8.0], [0.0, 10.0]])
    for _ in range(2):
        approach.end_task(batch.task, network, toy_trainer)
        assert classifier.new_weight[:, :2].tolist() == [[3.0, 4.0], [0.0, 5.0]]


def test_a_resumed_run_with_frozen_shared_stages_ends_the_same(toy_run, monkeypatch):
    from cl_ac.run import Journal

    whole = toy_run(MEMO(train_shared=False), "whole", "sdn", memory=12)
    original = Journal.epoch

    def stop(self, task, report):
        original(self, task, report)
        if task.index == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            toy_run(MEMO(train_shared=False), "stopped", "sdn", memory=12)
    resumed = toy_run(MEMO(train_shared=False), "stopped", "sdn", memory=12, resume=True)
    assert torch.equal(whole.outputs(2).logits, resumed.outputs(2).logits)


def test_it_forgets_less_than_fine_tuning_and_pays_for_specialised_stages_only(toy_run):
    training = Training(epochs=20, batch_size=8, lr=0.05, momentum=0.9, schedule="cosine")
    directory = toy_run(MEMO(), "memo", memory=24, training=training)
    tuned = toy_run(FineTuning(), "tuned", training=training)
    assert directory.accuracies()[-1, :2, -1].mean() > tuned.accuracies()[-1, :2, -1].mean()
    shared, specialised = 9 * 4 * 36, 9 * 16 * 36
    costs = [directory.outputs(task).cost for task in range(3)]
    assert [cost.plain for cost in costs] == [shared + n * specialised + 4 * n * 2 * n for n in (1, 2, 3)]
    weights = [9 * 4 + 2 * 4 + n * (9 * 16 + 2 * 4) for n in (1, 2, 3)]
    assert [cost.parameters for cost in costs] == [weights[n - 1] + (4 * n + 1) * 2 * n for n in (1, 2, 3)]


def test_a_stage_that_is_not_there_is_refused(toy_backbone):
    with pytest.raises(ConfigurationError, match=r"stage in MEMO\.branch_from 'third'"):
        MEMO("third").prepare(toy_backbone())
