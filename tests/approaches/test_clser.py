"""CLS-ER: which copy teaches an exemplar, how copies follow the network, and that the stable one answers everywhere."""

import pytest
import torch

from cl_ac.approach import Batch
from cl_ac.approaches.clser import CLSER, better, follow
from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.serving.finished import finished
from cl_ac.serving.model_file import load, save
from cl_ac.training import Training


def test_each_exit_and_exemplar_learns_from_the_copy_that_knows_it_better():
    # Exit 0: the stable copy is surer of sample 0, the plastic one of sample 1; exit 1 the other way round.
    surer, less = [3.0, 0.0], [1.0, 0.0]
    stable = torch.tensor([[surer, less], [less, surer]])
    plastic = torch.tensor([[less, surer], [surer, less]])
    assert better(stable, plastic, torch.tensor([0, 0])).tolist() == [[surer, surer]] * 2
    # For class 1 the smaller logit of class 0 is better.
    assert better(stable, plastic, torch.tensor([1, 1])).tolist() == [[less, less]] * 2


def test_loss_is_cross_entropy_of_all_and_distance_of_exemplars(toy_network, toy_benchmark, toy_trainer):
    network, approach, task = toy_network("sdn", (2, 2)).eval(), CLSER(strength=0.5), toy_benchmark()[1]
    approach.plastic.update(toy_network("sdn", (2, 2), seed=1))
    approach.stable.update(toy_network("sdn", (2, 2), seed=2))
    images = torch.randn(6, 1, 6, 6, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    old = Batch(images[4:], torch.tensor([0, 1]), task)
    batch = Batch(images[:4], torch.tensor([2, 3, 2, 3]), task, replay=(old,))
    loss = approach.loss(network, batch)
    expected = []
    for index in range(3):
        z, stable, plastic = (
            each(images)[index].double() for each in (network, approach.stable.network, approach.plastic.network)
        )
        targets = torch.tensor([2, 3, 2, 3, 0, 1])
        entropy = -z.log_softmax(-1)[range(6), targets].mean()
        rows = [
            stable[row] if stable[row].softmax(-1)[target] > plastic[row].softmax(-1)[target] else plastic[row]
            for row, target in ((4, 0), (5, 1))
        ]
        expected.append(entropy + 0.5 * ((z[4:] - torch.stack(rows)) ** 2).sum() / (2 * 4))
    torch.testing.assert_close(loss.double(), torch.stack(expected), atol=1e-5, rtol=1e-5)
    loss.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.numel())
    assert all(parameter.grad is None for parameter in approach.parameters())


def test_the_first_move_takes_the_network_and_later_ones_average(toy_network, toy_benchmark, toy_trainer):
    network, approach = toy_network("sdn"), CLSER(stable_decay=0.6)
    approach.begin_task(toy_benchmark()[0], network, toy_trainer)
    weight, norm = network.backbone.stages[0][0].weight, network.backbone.stages[0][1]
    copy = approach.stable.network.backbone.stages[0]
    approach.moved = [False, True]
    for value, expected in ((6.0, 6.0), (0.0, 3.0), (0.0, 0.6 * 3.0)):
        with torch.no_grad():
            weight.fill_(value)
        norm.running_mean.fill_(value)
        norm.num_batches_tracked += 1
        approach.end_step(network)
        torch.testing.assert_close(copy[0].weight, torch.full_like(weight, expected))
        torch.testing.assert_close(copy[1].running_mean, torch.full((4,), expected))
        assert copy[1].num_batches_tracked == norm.num_batches_tracked
    assert approach.moves.tolist() == [0, 3]
    assert not torch.equal(approach.plastic.network.backbone.stages[0][0].weight, copy[0].weight)


def test_copies_move_as_often_as_they_should(toy_benchmark):
    task = toy_benchmark()[0]
    network, approach = lambda images: torch.zeros(1, len(images), 2), CLSER(plastic_rate=0.75, stable_rate=0.25)
    empty = Batch(torch.empty(0, 1, 6, 6), torch.empty(0, dtype=torch.int64), task)
    moved = []
    for step in range(400):
        stream = lambda *numbers, step=step: generator(0, "loss", step, *numbers)  # noqa: E731
        approach.loss(network, Batch(torch.zeros(1, 1, 6, 6), torch.tensor([0]), task, replay=(empty,), stream=stream))
        moved.append(approach.moved)
    plastic, stable = torch.tensor(moved).float().mean(0).tolist()
    assert abs(plastic - 0.75) < 0.06
    assert abs(stable - 0.25) < 0.06


def test_copies_grow_the_rows_that_the_network_grows(toy_network, toy_benchmark, toy_trainer):
    network, approach, benchmark = toy_network("sdn"), CLSER(), toy_benchmark()
    approach.begin_task(benchmark[0], network, toy_trainer)
    network.grow(2, toy_trainer.seed)
    approach.begin_task(benchmark[1], network, toy_trainer)
    for copy in (approach.plastic, approach.stable):
        assert all(torch.equal(a, b) for a, b in zip(copy.network.parameters(), network.parameters(), strict=True))
        assert not any(parameter.requires_grad for parameter in copy.parameters())
        follow(copy, network, torch.tensor(0.5))


OPTIONS = ["--approach", "CLSER", "--approach.stable_decay", "0.9", "--memory.size", "20", "--training.epochs", "1"]
NETWORK = ["--backbone", "SmallConvNet", "--backbone.width", "4", "--exits", "sdn"]


def test_all_that_uses_a_run_uses_the_stable_copy(digits_run, tmp_path):
    directory = digits_run(*OPTIONS, *NETWORK, "--watch.every", "1000")
    outputs, done = directory.outputs(1), finished(directory, "cpu")
    assert done.network is done.objects.approach.stable.network
    state = Checkpoint.load(directory.checkpoint_path)
    working = state.network["backbone.stages.0.0.weight"]
    assert not torch.equal(working, done.network.backbone.stages[0][0].weight)
    samples = done.objects.benchmark.seen(done.last_task)[0]
    logits = done.trainer.predict(done.network, samples)
    torch.testing.assert_close(logits, outputs.logits, atol=1e-4, rtol=1e-4)
    # Watched, before the second task: the copy as it was after the first.
    first = directory.outputs(0)
    accuracy = (first.logits.argmax(-1) == first.targets).float().mean(1)
    torch.testing.assert_close(directory.watched_all()[1].accuracy[0, : len(accuracy), 0], accuracy)
    # Early exits, and the file that serves them, which holds one network.
    model = EarlyExitModel(done.network, done.objects.approach, Confidence(0.0))
    images = next(iter(done.trainer.loader(samples).in_order(64)))
    answers = model(images).predictions
    assert torch.equal(answers, outputs.logits[0, :64].argmax(-1))
    save(model, tmp_path / "model.pt", directory.config)
    assert torch.equal(load(tmp_path / "model.pt", "cpu")(images).predictions, answers)
    assert not any("stable" in name for name in torch.load(tmp_path / "model.pt")["approach"])


@pytest.mark.parametrize("options", [{"plastic_rate": 0.0}, {"stable_rate": 1.5}, {"stable_decay": 1.0}])
def test_impossible_options(options):
    with pytest.raises(ConfigurationError, match=f"approach.{next(iter(options))} is"):
        CLSER(**options)


def test_the_copy_that_answers_is_of_the_best_epoch(toy_run, toy_benchmark, monkeypatch):
    scores = [0.1, 0.9, 0.2]
    monkeypatch.setattr("cl_ac.run.validation_accuracy", lambda *_: scores[len(epochs)])
    approach, epochs = CLSER(plastic_rate=1.0, stable_rate=1.0), []
    monkeypatch.setattr(
        "cl_ac.run.after_epoch",
        lambda *_: epochs.append({name: value.clone() for name, value in approach.following().items()}),
    )
    training = Training(epochs=3, batch_size=8, lr=0.05, schedule="constant", select="best")
    toy_run(approach, memory=12, training=training, benchmark=toy_benchmark(tasks=1, validation=0.25))
    kept = approach.following()
    assert {name.partition(".")[0] for name in kept} == {"plastic", "stable", "moves"}
    assert all(torch.equal(value, epochs[1][name]) for name, value in kept.items())
    assert any(not torch.equal(value, epochs[2][name]) for name, value in kept.items())
