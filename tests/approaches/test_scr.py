"""SCR: what its loss sees and moves, its projectors, and that means of exemplars answer."""

import pytest
import torch

from cl_ac.approach import Batch
from cl_ac.approaches.scr import SCR
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.errors import ConfigurationError
from cl_ac.losses import supervised_contrast
from cl_ac.training import Training


def test_loss_sees_both_views_of_new_images_and_exemplars(toy_network, toy_benchmark, toy_trainer):
    benchmark = toy_benchmark()
    network, approach = toy_network("sdn", (2, 2)), SCR(projection=5)
    approach.begin_task(benchmark[0], network, toy_trainer)
    images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([2, 3, 0])
    old = Batch(images[2:3], targets[2:], benchmark[1], views=(images[5:6],))
    batch = Batch(images[:2], targets[:2], benchmark[1], replay=(old,), views=(images[3:5],))
    loss = approach.loss(network.eval(), batch)
    for index in range(3):
        features = network.features(images[:6])[index]
        inner, outer = approach.between.layers[index], approach.projector.layers[index]
        projections = outer(inner(features).relu())
        expected = supervised_contrast(projections[None], targets.repeat(2), 0.1)[0]
        torch.testing.assert_close(loss[index], expected)
    network.train()
    approach.loss(network, batch).sum().backward()
    learning = list(approach.learns(network))
    assert len(learning) == len(list(network.parameters())) + 12
    heads = {id(parameter) for parameter in network.heads.parameters()}
    for parameter in learning:
        assert (parameter.grad is None) == (id(parameter) in heads)


def test_a_projector_depends_on_how_many_exits_lie_behind_it(toy_network, toy_benchmark, toy_trainer):
    alone, several = SCR(), SCR()
    alone.begin_task(toy_benchmark()[0], toy_network(), toy_trainer)
    several.begin_task(toy_benchmark()[0], toy_network("sdn"), toy_trainer)
    for mine, theirs in ((alone.between, several.between), (alone.projector, several.projector)):
        assert torch.equal(mine.layers[0].weight, theirs.layers[2].weight)
        assert mine.layers[0].weight.shape == theirs.layers[2].weight.shape


def test_means_of_exemplars_answer_and_remember(toy_run, toy_benchmark):
    approach = SCR(replay=8, crop=0.8)
    directory = toy_run(approach, exits="sdn", memory=24)
    assert isinstance(approach.inference, NearestMean)
    assert approach.inference.newest == "exemplars"
    outputs = directory.outputs(2)
    assert (outputs.logits.argmax(-1) == outputs.targets)[:, outputs.tasks == 0].double().mean() > 0.6
    # Nothing trains the linear heads, and the second view is another image than the first.
    data = approach.training_set(toy_benchmark()[1])
    assert data.views == ({**approach.view},)
    assert data.views[0]["scale"] == (0.8, 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "approach.temperature is 0"),
        ({"projection": 0}, "approach.projection 0"),
        ({"crop": 0.0}, "in the second view of SCR augmentation.scale is"),
        ({"jitter": (0.0, 0.0, 0.0, 0.9)}, "in the second view of SCR augmentation.jitter is"),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(ConfigurationError, match=words):
        SCR(**options)


def test_no_epoch_is_selected_by_heads_that_do_not_learn(toy_run):
    with pytest.raises(ConfigurationError, match="SCR trains no linear heads"):
        toy_run(SCR(), memory=12, training=Training(epochs=1, select="best", schedule="constant"))
