"""Networks that branch: the old branch is frozen, the new one learns, and everything else goes on as before."""

import pytest
import torch

from cl_ac.approach import Approach
from cl_ac.backbones.branching import Branched, branch, branches_at, last_resolution, make_branching, newest_features
from cl_ac.backbones.resnet import ResNet32
from cl_ac.backbones.small import SmallConvNet
from cl_ac.backbones.vit import ViT
from cl_ac.exits.cost import exit_costs
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.losses import cross_entropy
from cl_ac.network import ExitNetwork


@pytest.fixture
def images():
    return torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def branching(toy_backbone):
    """Makes a network with two ACs and two classes, whose stages from `first` on can branch."""

    def make(first: int = 0) -> ExitNetwork:
        backbone = toy_backbone()
        make_branching(backbone, first)
        network = ExitNetwork(backbone, backbone.exits("sdn"))
        network.grow(2, 0)
        return network

    return make


def test_a_network_that_can_branch_answers_as_before(branching, toy_network, images):
    assert torch.equal(branching()(images), toy_network("sdn", (2,))(images))


@pytest.mark.parametrize(("first", "counts"), [(0, [2, 2, 2]), (1, [1, 2, 2])])
def test_a_branch_adds_features_behind_those_of_the_earlier_ones(branching, images, first, counts):
    network = branching(first).eval()
    before = network.features(images)
    branch(network, 0)
    assert branches_at(network) == counts
    after = network.features(images)
    for old, new, count in zip(before, after, counts, strict=True):
        assert new.shape[1] == count * old.shape[1]
        # The copy starts as what it is a copy of.
        torch.testing.assert_close(new, old.repeat(1, count))
    for old, new in zip(before, newest_features(network, after), strict=True):
        torch.testing.assert_close(new, old)
    assert network(images).shape == (3, 5, 2)


@pytest.mark.parametrize("first", [0, 1])
def test_only_the_newest_branch_learns(branching, images, first):
    network = branching(first)
    branch(network, 0)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    cross_entropy(network(images), torch.tensor([0, 1, 0, 1, 0])).sum().backward()
    optimizer.step()
    changed = {name for name, value in before.items() if not torch.equal(network.state_dict()[name], value)}
    assert not any(".branches.0." in name for name in changed)
    assert {name for name in before if ".branches.1." in name} <= changed


def test_a_state_with_other_branches_is_taken_over(branching, images):
    wide, narrow = branching(1), branching(1)
    branch(wide, 0)
    branch(wide, 0)
    fresh = branching(1)
    fresh.load_state_dict(wide.state_dict())
    assert torch.equal(fresh.eval()(images), wide.eval()(images))
    assert fresh.stage_shapes == wide.stage_shapes != narrow.stage_shapes
    learning = [name for name, value in fresh.backbone.named_parameters() if value.requires_grad]
    assert learning == [name for name, value in wide.backbone.named_parameters() if value.requires_grad]
    fresh.load_state_dict(narrow.state_dict())
    assert torch.equal(fresh.eval()(images), narrow.eval()(images))
    assert fresh.stage_shapes == narrow.stage_shapes


def test_each_branch_costs_what_the_first_did(branching):
    network = branching()
    convolutions = exit_costs(network).exits[0]
    head = 2 * network.heads[0].classifier.in_features
    branch(network, 0)
    assert exit_costs(network).exits[0] - 2 * head == 2 * (convolutions - head)


@pytest.mark.parametrize("fold", [False, True])
def test_a_branched_network_leaves_early_with_the_same_answers(branching, images, fold):
    network = branching(1)
    branch(network, 0)
    network.eval()
    model = EarlyExitModel(network, None, Confidence((2.0, 2.0, 0.0)), fold)
    assert torch.equal(model(images).predictions, network(images)[-1].argmax(-1))


class Branching(Approach):
    """A branch for each task."""

    memory_use = "none"

    def prepare(self, backbone):
        make_branching(backbone)

    def expand(self, task, network, trainer):
        if not task.is_first:
            branch(network, trainer.seed)

    def loss(self, network, batch):
        return cross_entropy(network(batch.images), batch.targets, batch.task.classes)


def test_a_run_reports_the_cost_after_each_task(toy_run):
    directory = toy_run(Branching(), exits="sdn")
    costs = [directory.outputs(task).cost.plain for task in range(3)]
    assert costs[0] < costs[1] < costs[2]


def test_a_resumed_run_has_its_branches(toy_run, monkeypatch):
    from cl_ac.recording.checkpoint import Checkpoint
    from cl_ac.run import Journal

    whole = toy_run(Branching(), "whole", "sdn")
    original = Journal.epoch

    def stop(self, task, report):
        original(self, task, report)
        if task.index == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            toy_run(Branching(), "stopped", "sdn")
    resumed = toy_run(Branching(), "stopped", "sdn", resume=True)
    assert torch.equal(whole.outputs(2).logits, resumed.outputs(2).logits)
    assert any(".branches.2." in name for name in Checkpoint.load(resumed.checkpoint_path).network)


def test_a_stage_without_parameters_branches_too(branching):
    network = branching()
    branch(network, 0)
    pool = network.backbone.stages[-1]
    assert isinstance(pool, Branched)
    assert len(pool) == 2


@pytest.mark.parametrize(
    ("backbone", "first"),
    [
        (lambda: SmallConvNet((1, 8, 8), 2), "block2"),
        (lambda: ResNet32((3, 16, 16), 2), "layer3.0"),
        (lambda: ViT((1, 8, 8), width=8, depth=3, patch=4, heads=2), "block_2"),
    ],
)
def test_the_last_resolution_begins_where_maps_last_shrank(backbone, first):
    built = backbone()
    assert built.stage_names[last_resolution(built)] == first


def test_of_maps_that_never_shrink_the_last_weights_are_the_specialised_ones(toy_backbone):
    assert last_resolution(toy_backbone()) == 1
