import copy

import pytest
import torch
from torch import nn

from cl_ac.approach import Approach, TrainingSet
from cl_ac.approaches.finetuning import FineTuning
from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.backbones.vit import MLP, ViT
from cl_ac.efficiency.sparsify import SparsifiedLoss, Sparsify, Sparsity, count_sparsity, sparsified, square_hoyer
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork, Exits
from cl_ac.training import Training


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.other = MLP(4, 6), MLP(4, 6), nn.GELU()

    def forward(self, x):
        return self.other(self.second(self.first(x)))


def test_losses_by_hand():
    before = torch.tensor([[-12.0, 3.0, 1.0], [-4.0, 0.0, -20.0]])
    after = torch.tensor([[0.0, 3.0, 1.0], [0.0, 2.0, 0.0]])
    assert Sparsify("hoyer").of(before, after).item() == pytest.approx((16 / 10 + 1) / 2)
    assert Sparsify("l1").of(before, after).item() == pytest.approx((4 + 2) / 2)
    # shifted by 10 above the displacement: 0, 13, 11 and 6, 10, 0
    assert Sparsify("clamped").of(before, after).item() == pytest.approx((24 + 16) / 2)
    expected = (24**2 / (13**2 + 11**2) + 16**2 / (6**2 + 10**2)) / 2
    assert Sparsify("clamped_hoyer").of(before, after).item() == pytest.approx(expected)


def test_hoyer_counts_equal_neurons_and_stays_defined_at_zero():
    values = torch.zeros(4, 7)
    values[0, 2], values[1, :3], values[2] = 5.0, 0.1, -2.0
    assert square_hoyer(values[:1]).item() == pytest.approx(1)
    assert square_hoyer(values[1:2]).item() == pytest.approx(3)
    assert square_hoyer(values[2:3]).item() == pytest.approx(7)
    values.requires_grad_()
    square_hoyer(values).backward()
    assert values.grad.isfinite().all()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [2, 2, 2, 2]), ("linear", [0, 0.4, 1.2, 2]), ("linear_warmup", [0, 1, 2, 2])],
)
def test_schedules_of_five_steps(schedule, expected):
    settings = Sparsify("hoyer", 2.0, schedule)
    assert [settings.weight_at(step, 5) for step in (0, 1, 3, 7)] == pytest.approx(expected)


def test_only_activations_of_ffns_become_relu():
    model = Model()
    Sparsify("hoyer").prepare(model)
    assert [type(layer) for layer in (model.first.activation, model.second.activation, model.other)] == [
        nn.ReLU,
        nn.ReLU,
        nn.GELU,
    ]
    for loss in ("clamped", "none"):
        untouched = Model()
        Sparsify(loss).prepare(untouched)
        assert {each.activation for each in find_feed_forwards(untouched).values()} == {"gelu"}
    with pytest.raises(ConfigurationError, match=r"sparsify\.loss is 'l1', but Linear has no feed-forward"):
        Sparsify("l1").prepare(nn.Linear(2, 2))


def test_the_context_averages_over_ffns_and_passes_and_leaves_no_hook():
    torch.manual_seed(0)
    model, settings = Model(), Sparsify("l1", 0.5, "constant")
    settings.prepare(model)
    one, other = torch.randn(5, 4), torch.randn(3, 4)

    def by_hand(x):
        hidden = model.first.up(x).relu()
        return [hidden.sum(-1).mean(), model.second.up(model.first.down(hidden)).relu().sum(-1).mean()]

    with Sparsity(model, settings) as sparsity:
        model(one)
        with torch.no_grad():
            model(10 * one)
        model(other)
        loss = sparsity.loss(0, 1)
        assert sparsity.loss(0, 1) == 0.0
    expected = 0.5 * torch.stack([*by_hand(one), *by_hand(other)]).mean()
    torch.testing.assert_close(loss, expected)
    assert not model.first.activation._forward_hooks
    loss.backward()
    assert model.first.up.weight.grad.abs().sum() > 0


def test_the_added_loss_goes_to_the_final_exit_and_no_copy_keeps_hooks():
    torch.manual_seed(0)
    backbone = ViT((1, 4, 4), width=4, depth=2, heads=1)
    network = ExitNetwork(backbone, Exits(["block_0"], [0.3]))
    network.grow(2, 0)
    settings = Sparsify("hoyer", 1.0, "linear")
    settings.prepare(network)
    images = torch.randn(3, 1, 4, 4)
    loss = SparsifiedLoss(lambda net, batch: net(batch).mean((1, 2)), settings, steps=4, step=1)
    values = []
    for _ in range(3):
        values.append(loss(network, images) - network(images).mean((1, 2)))
    assert all(value[0] == 0 for value in values)
    ratios = torch.stack([value[1] for value in values]) / values[0][1]
    torch.testing.assert_close(ratios, torch.tensor([1.0, 2.0, 3.0]))
    assert not any(layer._forward_hooks for layer in copy.deepcopy(network).modules())


def test_in_a_run_the_weight_rises_during_the_first_task_only(toy_benchmark, toy_trainer):
    first, second, _ = toy_benchmark().tasks
    training = toy_trainer.training

    def plain(network, batch):
        return network(batch.images).mean((1, 2))

    assert sparsified(plain, Sparsify(), TrainingSet(first.train, first), training) is plain
    settings = Sparsify("hoyer", 2.0, "linear")
    made = [sparsified(plain, settings, TrainingSet(task.train, task), training, step=3) for task in (first, second)]
    steps = 2 * -(-len(first.train) // 8)
    assert [settings.weight_at(each.step, each.steps) for each in made] == pytest.approx([2 * 3 / steps, 2])


def test_a_resumed_run_goes_on_with_the_weight_it_would_have_had(toy_run):
    class Interrupted(FineTuning):
        left = 7

        def end_step(self, network):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    torch.manual_seed(0)
    backbone = ViT((1, 6, 6), patch=3, width=8, depth=2, heads=2)
    settings = {"sparsify": Sparsify("hoyer", 0.1), "training": Training(3, 8, "adamw", 0.01, schedule="constant")}

    def start(name: str, approach: Approach, **options):
        return toy_run(approach, name, "ln", backbone=copy.deepcopy(backbone), **settings, **options)

    whole = start("whole", FineTuning())
    with pytest.raises(KeyboardInterrupt):
        start("stopped", Interrupted())
    resumed = start("stopped", FineTuning(), resume=True)
    for task in range(3):
        assert torch.equal(resumed.outputs(task).logits, whole.outputs(task).logits)


def test_preparing_again_changes_nothing():
    model = Model()
    Sparsify("hoyer").prepare(model)
    modules = list(model.modules())
    Sparsify("l1").prepare(model)
    assert list(model.modules()) == modules


def test_without_a_loss_nothing_is_recorded_or_added():
    model = Model()
    with Sparsity(model, Sparsify(weight=1.0)) as sparsity:
        assert not any(layer._forward_hooks for layer in model.modules())
        model(torch.randn(3, 4))
        assert sparsity.loss(0, 1) == 0.0


def test_training_with_the_loss_makes_neurons_silent():
    torch.manual_seed(0)
    model, settings = Model(), Sparsify("hoyer", 0.1, "constant")
    settings.prepare(model)
    x = torch.randn(64, 4)
    target = model(x).detach()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)

    def silent() -> float:
        return count_sparsity([model.first.up(x).relu()]).zero

    before = silent()
    with Sparsity(model, settings) as sparsity:
        for step in range(60):
            loss = (model(x) - target).square().mean() + sparsity.loss(step, 60)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert silent() > before + 0.2


def test_counts_by_hand():
    first = torch.tensor([[10.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    second = torch.tensor([[[1.0, 5e-7, -0.05, 0.0]]])
    counts = count_sparsity([first, second])
    assert counts.tokens == 3
    assert counts.zero == pytest.approx(6 / 12)
    assert counts.negligible == pytest.approx(7 / 12)
    # below a tenth: 0.5 and 0; all of the dead token; 5e-7, 0.05 and 0
    assert counts.below == pytest.approx((9 / 12, 7 / 12, 7 / 12, 7 / 12))


def test_wrong_settings_are_one_sentence():
    with pytest.raises(ConfigurationError, match=r"sparsify\.loss is 'l2'; it must be one of none, hoyer"):
        Sparsify("l2")
    with pytest.raises(ConfigurationError, match=r"sparsify\.weight is -1"):
        Sparsify("l1", -1)
