"""Replay by generation: DGR, and what its descendants share with it."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from cl_ac.approaches.brain_inspired_replay import BrainInspiredReplay
from cl_ac.approaches.generative_replay import GenerativeReplay
from cl_ac.approaches.internal_replay import InternalReplay
from cl_ac.approaches.progressive_latent_replay import ProgressiveLatentReplay
from cl_ac.cli.main import main
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.generators import VAE
from cl_ac.generators.cost import macs_of_step
from cl_ac.losses import cross_entropy
from cl_ac.network import Exits


@pytest.fixture
def second_task(toy_network, toy_benchmark, toy_learn, toy_trainer):
    """Learns a first task, and gives the network, a batch of the second, and that task."""

    def make(approach, exits="sdn"):
        network, tasks = toy_network(exits, ()), toy_benchmark().tasks
        approach.prepare(network.backbone)
        toy_learn(approach, network, tasks[:1])
        network.grow(2, 0)
        approach.begin_task(tasks[1], network, toy_trainer)
        images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        return network.train(), Batch(images, torch.tensor([2, 3] * 4), tasks[1]), tasks[1]

    return make


def small(**options) -> VAE:
    return VAE(**{"latent": 2, "width": 8, **options})


def rows_per_stage(network) -> list[int]:
    """Notes on how many rows each stage runs."""
    rows: list[int] = []
    for stage in network.backbone.stages:
        stage.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    return rows


def test_the_generator_takes_the_same_steps_in_float16(toy_network, toy_benchmark, toy_learn, toy_trainer):
    learned = []
    for precision in ("float32", "float16"):
        approach, network = GenerativeReplay(small(), labels="sampled"), toy_network("sdn", ())
        toy_trainer.training = toy_trainer.with_training(precision=precision)
        toy_learn(approach, network, toy_benchmark().tasks[:1])
        learned.append(approach.rehearsing.generator.state_dict())
    # It runs in single precision; half precision brings nothing but a loss that is scaled by a power of two.
    assert all(torch.equal(value, learned[1][name]) for name, value in learned[0].items())


@pytest.mark.parametrize(("new_weight", "weight"), [(None, 0.5), (0.2, 0.2)])
def test_new_images_and_samples_are_weighed(second_task, new_weight, weight):
    approach = GenerativeReplay(small(), labels="sampled", new_weight=new_weight)
    network, batch, _ = second_task(approach)
    loss = approach.loss(network, batch)[:-1]  # the generator's own is in the last
    replay = approach.draw(network, batch)
    logits = network.train()(torch.cat([batch.images, replay.entering[0]]))
    new = cross_entropy(logits[:, :8], batch.targets)
    old = cross_entropy(logits[:, 8:], replay.classes)
    torch.testing.assert_close(loss, (weight * new + (1 - weight) * old)[:-1])
    assert replay.classes.max() < 2


def test_distillation_is_soft_cross_entropy_over_all_classes_times_the_square_of_the_temperature(second_task):
    approach = GenerativeReplay(small(), labels="distilled", temperature=3.0, new_weight=1e-9)
    network, batch, _ = second_task(approach)
    loss = approach.loss(network, batch)[0].item()
    samples = approach.draw(network, batch).entering[0]
    old = approach.teacher(samples)[0].double().numpy()
    now = network(torch.cat([batch.images, samples]))[0, 8:].detach().double().numpy()
    wanted = np.pad(softmax(old / 3, -1), ((0, 0), (0, 2)))
    assert loss == pytest.approx(9 * -(wanted * log_softmax(now / 3, -1)).sum(-1).mean(), rel=1e-4)


def test_the_solver_labels_samples_with_the_class_that_it_takes_them_for(second_task):
    approach = GenerativeReplay(small(conditional=False), new_weight=1e-9)
    network, batch, _ = second_task(approach)
    loss = approach.loss(network, batch)[1]
    samples = approach.draw(network, batch).entering[0]
    labels = approach.teacher(samples)[-1].argmax(-1)
    torch.testing.assert_close(loss, cross_entropy(network(torch.cat([batch.images, samples]))[:, 8:], labels)[1])


def test_samples_run_no_stage_below_their_own_and_its_acs_get_no_gradient_of_them(second_task):
    approach = InternalReplay("second", generator=small(), replay=5)
    network, batch, _ = second_task(approach)
    rows = rows_per_stage(network)
    loss = approach.loss(network, batch)
    assert rows == [8, 8, 13]
    # The AC below goes on as in fine-tuning; the one at the stage learns from samples.
    alone = cross_entropy(network(batch.images), batch.targets, batch.task.classes)
    torch.testing.assert_close(loss[0], alone[0])
    assert not torch.isclose(loss[1], alone[1])


def test_stages_below_are_frozen_after_the_first_task_if_they_are_to_be(second_task):
    for freeze in (True, False):
        network, *_ = second_task(InternalReplay("second", freeze=freeze, generator=small()))
        learns = [any(p.requires_grad for p in stage.parameters()) for stage in network.backbone.stages[:2]]
        assert learns == [not freeze] * 2
        assert network.backbone.stages[0].training != freeze


def test_progressive_samples_enter_where_the_frequencies_say(second_task):
    approach = ProgressiveLatentReplay(["first", "second", "pool"], [0.25, 0.5, 0.25], generator=small(), replay=8)
    network, batch, _ = second_task(approach)
    replay, rows = approach.draw(network, batch), rows_per_stage(network)
    assert {place: value.shape for place, value in replay.entering.items()} == {
        1: (2, 4, 6, 6), 2: (4, 4, 6, 6), 3: (2, 4),
    }  # fmt: skip
    approach.loss(network, batch)
    assert rows == [8, 10, 14]


def test_samples_that_enter_deep_are_decoded_no_further(second_task):
    approach = ProgressiveLatentReplay(["first", "pool"], [0.0, 1.0], rehearsal=0.1, generator=small(), replay=10)
    network, batch, _ = second_task(approach)
    rows: list[int] = []
    for layer in approach.rehearsing.previous.decoder:
        layer.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    approach.draw(network, batch)
    assert rows == [1, 1, 10]  # one for the generator itself, through both layers


def test_a_teacher_at_the_first_stage_sees_the_same_samples_decoded_to_there(second_task):
    approach = ProgressiveLatentReplay(["first", "pool"], "basic", "first", generator=small(), replay=4)
    network, batch, _ = second_task(approach)
    replay = approach.draw(network, batch)
    assert {place: len(value) for place, value in replay.taught.items()} == {1: 4}
    assert torch.equal(replay.taught[1][:2], replay.entering[1])


def test_frequencies_follow_the_weights_of_the_network(second_task):
    approach = ProgressiveLatentReplay(frequencies="total_weights", generator=small())
    network, *_ = second_task(approach)
    # After the first stage: a convolution of 4 × 4 × 9 and 8 of its batch norm; after pooling: 4 classes of 4 + 1.
    assert approach.places(network.backbone) == [1, 3]
    expected = np.array([1 / 152, 1 / 20])
    assert approach.shares(network) == pytest.approx(list(expected / expected.sum()))


def test_feedback_reads_the_networks_features_and_moves_its_stages(second_task):
    for feedback in (True, False):
        approach = BrainInspiredReplay(feedback, latent=2, width=8)
        network, batch, _ = second_task(approach)
        fitted = approach.rehearsing.generator
        network.zero_grad()
        loss = approach.loss(network, batch)[-1]
        whole = torch.autograd.grad(loss, network.backbone.stages[1][0].weight, retain_graph=True)[0]
        fitted.zero_grad()
        loss.backward()
        assert fitted.posterior.weight.grad.abs().sum() > 0
        assert fitted.posterior.in_features == (4 if feedback else 8)
        rest = approach.loss
        approach.rehearsing.loss = lambda *_: torch.zeros(())
        network.zero_grad()
        without = torch.autograd.grad(rest(network, batch)[-1], network.backbone.stages[1][0].weight)[0]
        assert torch.allclose(whole, without) != feedback


def test_parts_of_brain_inspired_replay_can_be_left_out():
    approach = BrainInspiredReplay(internal=False, conditional=False, gates=0.0, distilled=False)
    assert (approach.at, approach.labels) == ("images", "solver")
    assert approach.rehearsing.generator.gates == 0


def test_counted_costs_are_those_of_the_layers(second_task):
    approach = InternalReplay("second", generator=small(layers=1), replay=4)
    network, _, task = second_task(approach, Exits([], []))
    found = macs_of_step(approach, network, task, 8)
    # Decoder of one layer: 2 → 8 → 144 of 4 samples for 8 images. Teacher: 4 features to 2 classes of them.
    assert found["decoder"] == (2 * 8 + 8 * 144) * 4 / 8
    assert found["teacher"] == 4 * 2 * 4 / 8
    # Samples: the head alone, forward, and backward for weights and for features of 4 → 4 classes.
    assert found["samples"] <= 3 * 4 * 4 * 4 / 8
    first, second = 36 * 9 * 4, 36 * 9 * 16
    assert found["new images"] == pytest.approx(first + second + 3 * 16, rel=0.3)
    # Encoder 144 → 8 → 4 and decoder, forward, and backward for weights and for inputs but the first; twice.
    forward = 144 * 8 + 8 * 4 + 2 * 8 + 8 * 144
    assert 2 * forward * 1.5 < found["generator"] < 3 * forward * 1.5


def test_a_run_keeps_the_counts_beside_its_results(toy_run):
    directory = toy_run(GenerativeReplay(small()), "run")
    first, *_, last = (record.training_macs for record in directory.records)
    assert set(first) == {"new images", "generator"}
    assert set(last) == {"new images", "samples", "decoder", "teacher", "generator"}
    assert last["samples"] == pytest.approx(last["new images"])


def test_heads_that_read_the_one_before_are_refused(toy_network, toy_benchmark, toy_trainer):
    network = toy_network(Exits(["first", "second"], [1.0, 1.0], cascade=True))
    with pytest.raises(ConfigurationError, match=r"exits\.cascade is true"):
        GenerativeReplay(small()).begin_task(toy_benchmark()[0], network, toy_trainer)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["InternalReplay", "--approach.at", "block9"], "unknown stage in InternalReplay.at 'block9'"),
        (["ProgressiveLatentReplay", "--approach.at", "[block9]"], "unknown stage in ProgressiveLatentReplay.at"),
        (["ProgressiveLatentReplay", "--approach.at", "[pool, block1]"], "from shallow to deep"),
        (["ProgressiveLatentReplay", "--approach.frequencies", "[0.2, 0.2, 0.2, 0.2]"], "which sums to 0.8"),
        (["ProgressiveLatentReplay", "--approach.at", "[block3, pool]"], "none between level 0 and the next"),
        (["ProgressiveLatentReplay", "--approach.rehearsal", "0"], "rehearsal"),
        (["GenerativeReplay", "--approach.generator", "VAE", "--approach.generator.latent", "0"], "latent"),
        (["GenerativeReplay", "--approach.new_weight", "1"], "new_weight"),
        (["GenerativeReplay", "--approach.labels", "own"], "labels"),
        (["GenerativeReplay", "--approach.generator", "Oracle"], "Oracle"),
    ],
)
def test_mistakes_are_one_sentence(options, told, capsys, tmp_path):
    arguments = ["run", "--benchmark", "Digits", "--benchmark.tasks", "5", "--backbone", "SmallConvNet"]
    assert main([*arguments, "--approach", *options, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.strip().splitlines()) == 1
