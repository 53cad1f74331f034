"""EASE: an adapter for each task, and old classes placed in new subspaces by likeness."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.approaches.ease import EASE, SubspaceMeans
from cl_ac.classifiers.prototypes import placed
from cl_ac.errors import ConfigurationError
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.network import Backbone, ExitNetwork
from cl_ac.serving.finished import finished
from cl_ac.serving.model_file import load, save
from cl_ac.tuning.bank import banks


@pytest.fixture
def prepared(toy_backbone):
    """Makes an approach and a network that it has prepared."""

    def make(**options) -> tuple[EASE, ExitNetwork]:
        approach, backbone = EASE(**{"width": 3, **options}), toy_backbone()
        approach.prepare(backbone)
        return approach, ExitNetwork(backbone, backbone.exits("sdn"))

    return make


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 99))
def test_old_classes_in_new_subspaces_by_definition(sizes, seed):
    draws = np.random.default_rng(seed)
    means = draws.normal(size=(sum(sizes), len(sizes), 4))
    found = placed(torch.from_numpy(means), sizes).numpy()
    task_of = np.repeat(np.arange(len(sizes)), sizes)
    for c, own in enumerate(task_of):
        for space in range(len(sizes)):
            if space <= own:
                assert (found[c, space] == means[c, space]).all()
                continue
            rows, likeness = means[task_of == space], means[c, own] / np.linalg.norm(means[c, own])
            cosines = rows[:, own] @ likeness / np.linalg.norm(rows[:, own], axis=1)
            shares = np.exp(cosines) / np.exp(cosines).sum()
            np.testing.assert_allclose(found[c, space], shares @ rows[:, space])


def test_a_single_new_class_takes_the_place_of_all_old_ones():
    means = torch.randn(3, 2, 4)
    assert torch.allclose(placed(means, [2, 1])[:2, 1], means[2, 1])


def test_own_subspaces_count_most():
    classifier = SubspaceMeans(reweight=0.3, temperature=1.0)
    classifier.trust = torch.tensor([[1.0, 0.15, 0.15], [0.15, 1.0, 0.15]])
    means, features = torch.randn(2, 3, 4), torch.randn(5, 12)
    classifier.register_buffer("means_0", means)
    cosines = F.cosine_similarity(features.view(5, 1, 3, 4), means[None], dim=-1)
    expected = cosines[..., 0] + 0.15 * (cosines[..., 1] + cosines[..., 2])
    found = classifier.score(0, features)
    torch.testing.assert_close(found[:, 0], expected[:, 0])


def test_means_are_those_of_features_of_every_adapter(prepared, toy_benchmark, toy_trainer, toy_learn):
    approach, network = prepared()
    tasks, classifier = toy_benchmark().tasks[:2], approach.inference_classifier()
    for task in tasks:
        toy_learn(approach, network, [task])
        classifier.update(task, approach.inference_network(network), toy_trainer, approach.memory)
    assert classifier.trust.tolist() == pytest.approx(np.array([[1, 0.1]] * 2 + [[0.1, 1]] * 2))
    images = toy_trainer.augmentation.apply(tasks[1].train.images[tasks[1].train.targets == 3])
    for subspace in range(2):
        for bank in banks(network):
            bank.mix = {subspace: 1.0}
        mean = network.hidden(images)[-1].mean(0)
        torch.testing.assert_close(classifier.means_2[3, subspace], mean)


def test_the_newest_adapters_and_heads_alone_learn(prepared, check_newest_alone_learn):
    check_newest_alone_learn(*prepared(), lambda name: "entries.1" in name)


def test_earlier_adapters_stay_bit_for_bit(prepared, toy_benchmark, toy_learn):
    approach, network = prepared()
    tasks = toy_benchmark().tasks
    toy_learn(approach, network, tasks[:1])
    images = torch.randn(3, 1, 6, 6)
    before = approach.inference_network(network).hidden(images)
    toy_learn(approach, network, tasks[1:])
    for early, late in zip(before, approach.inference_network(network).hidden(images), strict=True):
        assert late.shape[1] == 3 * early.shape[1]
        assert torch.equal(late.chunk(3, 1)[0], early)


def test_the_answering_network_shares_its_weights(prepared, toy_benchmark, toy_learn):
    approach, network = prepared()
    toy_learn(approach, network, toy_benchmark().tasks)
    storages = {parameter.untyped_storage().data_ptr() for parameter in network.backbone.parameters()}
    joined = approach.inference_network(network)
    assert {parameter.untyped_storage().data_ptr() for parameter in joined.backbone.parameters()} == storages


def test_a_finished_run_answers_early_from_its_folder_and_from_a_file(digits_run, tmp_path):
    backbone = ["--backbone", "ViT", "--backbone.width", "16", "--backbone.depth", "2", "--backbone.patch", "4"]
    directory = digits_run("--approach", "EASE", "--approach.width", "4", *backbone, "--exits", "ln")
    run, stored = finished(directory, "cpu"), directory.outputs(1)
    images = run.trainer.augmentation.apply(run.last_task.test.images[:20])
    logits = stored.logits[:, stored.tasks == 1][:, :20]
    torch.testing.assert_close(run.objects.approach.answer(run.network, images), logits, rtol=1e-4, atol=1e-4)
    model = EarlyExitModel(run.network, run.objects.approach, Confidence((2.0, 0.0)), fold=True)
    save(model, tmp_path / "model.pt", directory.config)
    for each in (model, load(tmp_path / "model.pt", "cpu")):
        assert torch.equal(each(images).predictions, logits[1].argmax(-1))


def test_impossible_settings_are_refused(prepared):
    with pytest.raises(ConfigurationError, match="reweight is -1"):
        EASE(reweight=-1)
    with pytest.raises(ConfigurationError, match="width of adapters is 0"):
        prepared(width=0)
    with pytest.raises(ConfigurationError, match="neither feed-forward networks nor convolutions"):
        EASE().prepare(Backbone((1, 6, 6), {"flat": torch.nn.Flatten()}))
