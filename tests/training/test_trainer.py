import math

import pytest
import torch

from cl_ac.approach import TrainingSet
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples, concatenate
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.heads.prepared import PreparedPolytope
from cl_ac.losses import cross_entropy
from cl_ac.network import Exits
from cl_ac.training import Fit, HeadWarmup, ParameterGroup, Trainer, Training
from cl_ac.training.fitting import Fitting


def rates(epochs: int, **settings) -> list[float]:
    training = Training(epochs=epochs, **settings)
    return [training.learning_rate(epoch, epochs) for epoch in range(epochs)]


def test_default_milestones_are_the_papers_at_200_epochs():
    at = rates(200, lr=0.1)
    assert [epoch for epoch in range(1, 200) if at[epoch] != at[epoch - 1]] == [60, 120, 160]
    assert at[0] == 0.1
    assert at[199] == pytest.approx(1e-4)


def test_default_milestones_decay_in_short_runs_too():
    assert rates(5, lr=1.0) == pytest.approx([1.0, 1.0, 0.1, 0.01, 0.001])


def test_milestones_may_be_epochs():
    assert rates(4, lr=1.0, milestones=(1, 3), decay=0.5) == pytest.approx([1.0, 0.5, 0.5, 0.25])


def test_cosine_after_warmup_never_trains_at_rate_zero():
    at = rates(10, lr=1.0, schedule="cosine", warmup=2)
    assert at[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert at[6] == pytest.approx(0.5)
    assert min(at) > 0
    assert rates(1, lr=1.0, schedule="cosine") == [1.0]


def test_constant_schedule():
    assert rates(3, lr=0.2, schedule="constant") == [0.2] * 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"epochs": -1}, "training.epochs"),
        ({"lr": 0.0}, "training.lr"),
        ({"epochs": 10, "milestones": (12,)}, "training.milestones"),
        ({"epochs": 10, "milestones": (2.5,)}, "training.milestones"),
        ({"epochs": 3, "warmup": 3}, "training.warmup"),
        ({"momentum": 1.0}, "training.momentum"),
        ({"batch_size": 0}, "training.batch_size"),
        ({"first_batch_size": 0}, "training.first_batch_size"),
    ],
)
def test_impossible_settings_are_named(settings, named):
    with pytest.raises(ConfigurationError, match=named):
        Training(**settings)


def plain_loss(network, batch):
    return cross_entropy(network(batch.images), batch.targets)


@pytest.fixture
def task(toy_benchmark):
    return toy_benchmark()[0]


def test_fit_lowers_the_loss_and_counts_steps(toy_trainer, toy_network, task):
    reports = []
    toy_trainer.fit(Fit(toy_network("sdn"), plain_loss, TrainingSet(task.train, task)), on_epoch=reports.append)
    assert [report.epoch for report in reports] == [0, 1]
    assert reports[1].losses[-1] < reports[0].losses[-1]
    assert reports[1].steps == 2 * math.ceil(len(task.train) / 8)


def test_gradient_is_that_of_the_weighted_sum_over_exits(task, toy_network, toy_benchmark):
    settings = Training(epochs=1, batch_size=1000, lr=0.5, schedule="constant", clip=0, channels_last=False)
    trainer = Trainer(settings, toy_benchmark.augmentation, torch.device("cpu"))
    network = toy_network("sdn")
    seen = []

    def loss(network, batch):
        seen.append(batch)
        return plain_loss(network, batch)

    before = {name: value.clone() for name, value in network.named_parameters()}
    twin = network.frozen_copy().requires_grad_(True).train()
    trainer.fit(Fit(network, loss, TrainingSet(task.train, task)))
    losses = plain_loss(twin, seen[0])
    # One epoch trains with the final weights of the ACs, 0.3 and 0.6, and 1 for the final classifier.
    (0.3 * losses[0] + 0.6 * losses[1] + losses[2]).backward()
    for name, parameter in twin.named_parameters():
        if parameter.numel():
            expected = before[name] - 0.5 * parameter.grad
            torch.testing.assert_close(dict(network.named_parameters())[name], expected)


def test_mean_gradient_norm_is_that_before_clipping(task, toy_network, toy_benchmark):
    norms, reports = [], []

    def on_step(network, batch, step):
        norms.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm())

    for clip in (1e6, 1e-3):
        settings = Training(epochs=1, batch_size=8, lr=1e-9, schedule="constant", clip=clip)
        trainer = Trainer(settings, toy_benchmark.augmentation, torch.device("cpu"))
        data = TrainingSet(task.train, task)
        trainer.fit(Fit(toy_network("sdn"), plain_loss, data), on_step=on_step, on_epoch=reports.append)
    unclipped, clipped = norms[: len(norms) // 2], norms[len(norms) // 2 :]
    assert reports[0].gradient_norm == pytest.approx(torch.stack(unclipped).mean().item(), rel=1e-5)
    assert reports[1].gradient_norm == pytest.approx(reports[0].gradient_norm, rel=1e-3)
    assert max(clipped) <= 1.01e-3


def test_without_clipping_no_gradient_norm_is_known(task, toy_network, toy_benchmark):
    settings, reports = Training(epochs=1, batch_size=8, clip=0, schedule="constant"), []
    trainer = Trainer(settings, toy_benchmark.augmentation, torch.device("cpu"))
    trainer.fit(Fit(toy_network(), plain_loss, TrainingSet(task.train, task)), on_epoch=reports.append)
    assert reports[0].gradient_norm is None


def test_steps_are_counted_over_epochs(toy_trainer, toy_network, task):
    steps, reports = [], []
    toy_trainer.fit(
        Fit(toy_network(), plain_loss, TrainingSet(task.train, task)),
        on_step=lambda network, batch, step: steps.append(step),
        on_epoch=reports.append,
    )
    assert steps == list(range(1, reports[-1].steps + 1))


def test_the_first_task_may_have_larger_batches(toy_network, toy_benchmark):
    for task, expected in zip(toy_benchmark(validation=0).tasks[:2], (2, 3), strict=True):
        training = Training(epochs=1, batch_size=8, first_batch_size=16, schedule="constant")
        trainer, reports = Trainer(training, toy_benchmark.augmentation, torch.device("cpu")), []
        data = TrainingSet(task.train, task)
        trainer.fit(Fit(toy_network(sizes=(2,) * (task.index + 1)), plain_loss, data), on_epoch=reports.append)
        assert reports[0].steps == expected


def test_replay_comes_with_every_batch_in_the_size_asked_for(toy_trainer, toy_network, toy_benchmark):
    first, second = toy_benchmark()[:2]
    batches = []

    def loss(network, batch):
        batches.append(batch)
        return plain_loss(network, batch)

    data = TrainingSet(second.train, second, first.train, replay=(None, 3), drop_last=True)
    toy_trainer.fit(Fit(toy_network(sizes=(2, 2)), loss, data))
    assert len(batches) == 2 * (len(second.train) // 8)
    for batch in batches:
        assert [len(batch), *map(len, batch.replay)] == [8, 8, 3]
        assert all(replayed.targets.max() < 2 for replayed in batch.replay)
    assert not torch.equal(batches[0].images, batches[0].replay[0].images)


def test_replay_from_an_empty_memory_is_empty(toy_trainer, toy_network, task):
    batches = []

    def loss(network, batch):
        batches.append(batch)
        return plain_loss(network, batch)

    toy_trainer.fit(Fit(toy_network(), loss, TrainingSet(task.train, task, None, replay=(None,))))
    assert all(batch.replay[0].images.shape == (0, 1, 6, 6) for batch in batches)


def test_best_epoch_on_validation_is_kept(toy_benchmark, toy_network, task):
    trainer = Trainer(
        Training(epochs=3, batch_size=8, select="best", schedule="constant"),
        toy_benchmark.augmentation,
        torch.device("cpu"),
    )
    network, states = toy_network(), []
    scores = iter([0.2, 0.9, 0.9])

    def on_epoch(report):
        states.append({name: value.clone() for name, value in network.state_dict().items() if name != "_extra_state"})

    trainer.fit(
        Fit(network, plain_loss, TrainingSet(task.train, task)), validate=lambda: next(scores), on_epoch=on_epoch
    )
    kept = network.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in states[1].items())
    assert any(not torch.equal(value, kept[name]) for name, value in states[2].items())


def test_what_learns_beside_the_network_is_of_the_best_epoch_too(toy_benchmark, toy_network, task):
    network, own = toy_network(), torch.nn.Parameter(torch.zeros(3))
    training = Training(epochs=3, batch_size=8, lr=0.1, schedule="constant", select="best")
    trainer = Trainer(training, toy_benchmark.augmentation, torch.device("cpu"))
    seen = []

    def loss(network, batch):
        return plain_loss(network, batch) + own.sum()

    def validate():
        seen.append(own.detach().clone())
        return [0.1, 0.9, 0.2][len(seen) - 1]

    data, beside = TrainingSet(task.train, task), {"own": own.detach()}
    fit = Fit(network, loss, data, parameters=[*network.parameters(), own], following=lambda: beside)
    trainer.fit(fit, validate=validate)
    assert torch.equal(own, seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_what_follows_the_network_is_of_the_best_epoch_too(toy_benchmark, toy_network, task):
    training = Training(epochs=3, batch_size=8, lr=0.1, schedule="constant", select="best")
    trainer, steps, scores = (
        Trainer(training, toy_benchmark.augmentation, torch.device("cpu")),
        [],
        iter([0.1, 0.9, 0.2]),
    )
    # Replaced, not changed in place, as buffers of an approach may be.
    holder = {"steps": torch.zeros(())}

    def on_step(network, batch, step):
        holder["steps"] = holder["steps"] + 1

    def on_epoch(report):
        steps.append(holder["steps"].item())

    fit = Fit(toy_network(), plain_loss, TrainingSet(task.train, task), following=lambda: holder)
    trainer.fit(fit, validate=lambda: next(scores), on_step=on_step, on_epoch=on_epoch)
    assert holder["steps"].item() == steps[1] < steps[2]


def test_a_diverging_loss_is_a_user_error(toy_trainer, toy_network, task):
    with pytest.raises(UserError, match=r"no longer finite.*training\.lr"):
        toy_trainer.fit(
            Fit(
                toy_network(),
                lambda network, batch: plain_loss(network, batch) * torch.inf,
                TrainingSet(task.train, task),
            )
        )


def test_fixed_statistics_leave_batch_norm_alone(toy_trainer, toy_network, task):
    network = toy_network()
    before = {name: value.clone() for name, value in network.named_buffers()}
    toy_trainer.fit(Fit(network, plain_loss, TrainingSet(task.train, task), fixed_statistics=True))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_only_the_given_parameters_learn(toy_trainer, toy_network, task):
    network = toy_network("sdn")
    before = {name: value.clone() for name, value in network.named_parameters()}
    head = list(network.heads[-1].parameters())
    toy_trainer.fit(Fit(network, plain_loss, TrainingSet(task.train, task), parameters=head))
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("heads.2.") for name in changed)


def test_groups_learn_at_their_own_rates(toy_benchmark, toy_network, task):
    training = Training(epochs=1, batch_size=72, lr=0.1, clip=0, schedule="constant")
    trainer = Trainer(training, toy_benchmark.augmentation, torch.device("cpu"))
    network = toy_network()
    backbone, head = list(network.backbone.parameters()), network.heads[-1].new_rows
    before = [value.detach().clone() for value in (*backbone, *head)]
    groups = [ParameterGroup(backbone, lr_scale=0.0), ParameterGroup(head, lr_scale=0.5, weight_decay=0.0)]
    gradients = []

    def loss(network, batch):
        network.zero_grad()
        plain_loss(network, batch).sum().backward()
        gradients.extend(value.grad.clone() for value in (*backbone, *head))
        return plain_loss(network, batch)

    trainer.fit(Fit(network, loss, TrainingSet(task.train, task), parameters=groups))
    for value, old, gradient in zip((*backbone, *head), before, gradients, strict=True):
        scale = 0.05 if any(value is row for row in head) else 0.0
        torch.testing.assert_close(value, old - scale * gradient)


def test_predict_is_in_order_and_leaves_the_mode(toy_trainer, toy_network, task):
    network = toy_network("sdn").train()
    logits = toy_trainer.predict(network, task.test)
    assert logits.shape == (3, len(task.test), 2)
    assert network.training
    network.eval()
    images = toy_trainer.augmentation.apply(task.test.images)
    torch.testing.assert_close(logits, network(images).detach())
    assert [feature.shape[0] for feature in toy_trainer.features(network, task.test)] == [len(task.test)] * 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_precisions_and_optimizers_learn(toy_benchmark, toy_network, task, precision, optimizer):
    settings = Training(epochs=8, batch_size=8, lr=0.02, optimizer=optimizer, precision=precision, schedule="constant")
    trainer = Trainer(settings, toy_benchmark.augmentation, torch.device("cpu"))
    reports = []
    trainer.fit(Fit(toy_network("sdn"), plain_loss, TrainingSet(task.train, task)), on_epoch=reports.append)
    assert (reports[-1].losses < reports[0].losses).all()


def warmed_up(toy_benchmark, toy_network, task, **warmup):
    training = Training(epochs=1, batch_size=8, head_warmup=HeadWarmup(**warmup))
    network = toy_network("sdn", (2,) * (task.index + 1))
    before = {name: value.clone() for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    Trainer(training, toy_benchmark.augmentation, torch.device("cpu")).warm_up_heads(
        network, TrainingSet(task.train, task)
    )
    after = network.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_head_warmup_moves_the_newest_rows_only(toy_benchmark, toy_network):
    first, second = toy_benchmark().tasks[:2]
    moved = warmed_up(toy_benchmark, toy_network, second, epochs=2)
    assert moved
    assert all(name.startswith("heads.") and ".new_" in name for name in moved)
    assert not warmed_up(toy_benchmark, toy_network, first, epochs=2)
    assert not warmed_up(toy_benchmark, toy_network, second, epochs=0)
    drifting = warmed_up(toy_benchmark, toy_network, second, epochs=1, freeze_batch_norm=False)
    assert any("running_mean" in name for name in drifting)


def test_heads_without_new_rows_are_not_warmed_up(toy_benchmark, toy_network, monkeypatch):
    network = toy_network(classifier=lambda features: PreparedPolytope(features, 6), sizes=(2, 2))
    trainer = Trainer(Training(head_warmup=HeadWarmup(epochs=1)), toy_benchmark.augmentation, torch.device("cpu"))
    fits, task = [], toy_benchmark()[1]
    monkeypatch.setattr(trainer, "fit", fits.append)
    trainer.warm_up_heads(network, TrainingSet(task.train, task))
    assert not fits


def test_head_warmup_learns_from_the_new_images_of_the_given_data_with_every_exit_at_weight_one(
    toy_benchmark, toy_network, monkeypatch
):
    first, second = toy_benchmark().tasks[:2]
    trainer = Trainer(Training(epochs=1, head_warmup=HeadWarmup(1)), toy_benchmark.augmentation, torch.device("cpu"))
    fits = []
    monkeypatch.setattr(trainer, "fit", fits.append)
    given = concatenate(first.train, second.train.select(torch.arange(5)))
    trainer.warm_up_heads(toy_network(Exits(["first", "second"], [0.3, 0.0]), (2, 2)), TrainingSet(given, second))
    assert torch.equal(fits[0].data.samples.images, second.train.images[:5])
    assert fits[0].exit_weights == [1.0, 0.0, 1.0]


def test_an_ac_of_weight_zero_keeps_its_rows_whatever_the_weight_decay(toy_benchmark, toy_network, task):
    network = toy_network(Exits(["first", "second"], [0.0, 0.6]))
    before = {name: value.clone() for name, value in network.heads.named_parameters()}
    training = Training(epochs=2, batch_size=8, lr=0.1, weight_decay=0.1, momentum=0.9, schedule="constant")
    trainer = Trainer(training, toy_benchmark.augmentation, torch.device("cpu"))
    trainer.fit(Fit(network, plain_loss, TrainingSet(task.train, task)))
    for name, value in network.heads.named_parameters():
        assert torch.equal(value, before[name]) == (name.startswith("0.") or not value.numel()), name


@pytest.mark.parametrize("of", [lambda losses: losses.sum(), lambda losses: losses[:, None].expand(-1, 8)])
def test_a_loss_that_is_not_one_value_for_each_exit_is_a_sentence(toy_trainer, toy_network, task, of):
    fit = Fit(toy_network("sdn"), lambda *given: of(plain_loss(*given)), TrainingSet(task.train, task))
    with pytest.raises(UserError, match=r"the loss of stage 'task' has the shape .*; expected one value .*, \[3\]"):
        toy_trainer.fit(fit)


def test_nothing_to_learn_from_is_a_sentence(toy_trainer, toy_network, task):
    empty = task.train.select(torch.arange(0))
    with pytest.raises(UserError, match="task 1 has no image to learn from"):
        toy_trainer.fit(Fit(toy_network(), plain_loss, TrainingSet(empty, task)))


def test_a_batch_that_batch_norm_cannot_learn_from_is_a_sentence(toy_trainer, toy_network, task):
    network = toy_network()
    network.backbone.stages[2].append(torch.nn.BatchNorm1d(4))
    one = TrainingSet(task.train.select(torch.arange(1)), task)
    with pytest.raises(UserError, match=r"batch of 1 image.*training\.batch_size"):
        toy_trainer.fit(Fit(network, plain_loss, one))
    drawn = TrainingSet(task.train, task, task.train, replay=(1,))
    with pytest.raises(UserError, match=r"single exemplar.*approach\.replay to 2"):
        toy_trainer.fit(Fit(network, lambda network, batch: plain_loss(network, batch.replay[0]), drawn))


@pytest.mark.parametrize(("spoilt", "named"), [(torch.inf, "the weights are"), (3e38, "the answers are")])
def test_weights_spoilt_by_the_last_step_are_no_result(spoilt, named, toy_trainer, toy_network, task):
    network = toy_network()

    def spoil(network, batch, steps):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(spoilt)

    one_step = TrainingSet(task.train.select(torch.arange(8)), task)
    training = Training(epochs=1, batch_size=8, schedule="constant")
    epochs = []
    with pytest.raises(UserError, match=rf"{named} no longer finite.*training\.lr"):
        toy_trainer.fit(Fit(network, plain_loss, one_step, training), on_step=spoil, on_epoch=epochs.append)
    assert not epochs


def test_batch_norm_freezes_after_the_first_task(toy_benchmark, toy_network):
    for task in toy_benchmark().tasks[:2]:
        training = Training(epochs=1, batch_size=8, freeze_batch_norm=True)
        network = toy_network("sdn", (2,) * (task.index + 1))
        norm = network.backbone.stages[0][1]
        before, weight = norm.running_mean.clone(), norm.weight.detach().clone()
        trainer = Trainer(training, toy_benchmark.augmentation, torch.device("cpu"))
        trainer.fit(Fit(network, plain_loss, TrainingSet(task.train, task)))
        assert torch.equal(norm.running_mean, before) == (task.index > 0)
        assert not torch.equal(norm.weight, weight)


def test_impossible_warmup_is_refused():
    with pytest.raises(ConfigurationError, match=r"training\.head_warmup has epochs -1"):
        HeadWarmup(epochs=-1)


def test_stages_learn_at_rates_of_their_own(toy_network, toy_benchmark):
    network, data = toy_network("sdn"), TrainingSet(toy_benchmark()[0].train, toy_benchmark()[0])
    network.backbone.lr_scale = {"first": 0.5}
    learns = [ParameterGroup(network.backbone.parameters(), 0.1, weight_decay=0.0), *network.heads.parameters()]
    fitting = Fitting(Fit(network, None, data, parameters=learns), Training(lr=2.0), torch.device("cpu"), None)
    fitting.set_learning_rate(2.0)
    groups = fitting.optimizer.param_groups
    rates = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    first, second = (next(stage.parameters()) for stage in network.backbone.stages[:2])
    head = next(p for p in network.heads.parameters() if p.numel())
    assert [rates[id(each)][0] for each in (first, second, head)] == pytest.approx([0.1, 0.2, 2.0])
    assert rates[id(first)][1] == 0.0


def test_a_frozen_stage_is_in_no_group(toy_network, toy_benchmark):
    network, data = toy_network(), TrainingSet(toy_benchmark()[0].train, toy_benchmark()[0])
    network.backbone.freeze("all")
    fitting = Fitting(Fit(network, None, data), Training(), torch.device("cpu"), None)
    learning = {id(parameter) for parameter in fitting.parameters}
    assert learning == {id(p) for p in network.heads.parameters() if p.numel()}


def test_head_warmup_learns_what_will_answer(toy_benchmark, toy_network, monkeypatch):
    task = toy_benchmark()[1]
    trainer = Trainer(Training(epochs=1, head_warmup=HeadWarmup(1)), toy_benchmark.augmentation, torch.device("cpu"))
    fits, network = [], toy_network("sdn", (2, 2)).eval()
    monkeypatch.setattr(trainer, "fit", fits.append)
    trainer.warm_up_heads(network, TrainingSet(task.train, task), lambda logits: logits / 0.1)
    batch = next(trainer.loader(task.train).shuffled(8, 8, torch.Generator(), task))
    expected = cross_entropy(network(batch.images) / 0.1, batch.targets, task.classes)
    torch.testing.assert_close(fits[0].loss(network, batch), expected)


@pytest.mark.parametrize(("side", "at_once"), [(8, 256), (32, 256), (96, 28), (224, 8)])
def test_few_large_images_are_answered_at_once_on_a_cpu(side, at_once):
    trainer = Trainer(Training(), Augmentation(), torch.device("cpu"))
    samples = Samples(torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    assert trainer.answered_at_once(samples) == at_once
