"""APER: the first task adapts, and means of joint features answer from then on."""

import pytest
import torch
import torch.nn.functional as F

from cl_ac.approaches.aper import APER
from cl_ac.approaches.simplecil import SimpleCIL
from cl_ac.backbones.vit import ViT
from cl_ac.data.batches import Batch
from cl_ac.data.copying import copied
from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.exits.cost import exit_costs
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.network import Backbone, ExitNetwork, Exits
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.serving.finished import finished
from cl_ac.serving.model_file import load, save
from cl_ac.training import Training


@pytest.fixture
def prepared(toy_backbone):
    """Makes an approach and a network that it has prepared."""

    def make(**options) -> tuple[APER, ExitNetwork]:
        approach, backbone = APER(**options), toy_backbone()
        approach.prepare(backbone)
        return approach, ExitNetwork(backbone, backbone.exits("sdn"), approach.build_classifier)

    return make


@pytest.mark.parametrize("tuning", ["adapter", "ssf"])
def test_untouched_tuning_answers_as_simplecil(toy_run, toy_backbone, tuning):
    training = Training(epochs=0, batch_size=8)
    runs = [
        toy_run(each, type(each).__name__, "sdn", training=training, backbone=toy_backbone())
        for each in (SimpleCIL(), APER(tuning))
    ]
    first, second = (run.outputs(2).logits for run in runs)
    torch.testing.assert_close(first, second)


def test_loss_by_definition(prepared, toy_benchmark, toy_trainer):
    approach, network = prepared(width=3)
    task = toy_benchmark().tasks[0]
    network.grow(2, 0)
    approach.begin_task(task, network, toy_trainer)
    with torch.no_grad():
        for head in network.heads:
            head.classifier.scale.fill_(3.0)
    images, targets = torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 1, 0])
    loss, features = approach.loss(network.eval(), Batch(images, targets, task)), network.features(images)
    for value, head, part in zip(loss, network.heads, features, strict=True):
        cosines = F.cosine_similarity(part[:, None], head.classifier.weight[None], dim=-1)
        expected = -(3 * cosines).log_softmax(-1)[range(4), targets].mean()
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("tuning", ["finetune", "adapter", "ssf"])
def test_features_before_and_after_the_first_task_are_joined(
    toy_backbone, prepared, toy_benchmark, toy_trainer, toy_learn, tuning
):
    approach, network = prepared(tuning=tuning)
    toy_learn(approach, network, toy_benchmark().tasks[:1])
    stream = torch.Generator().manual_seed(0)
    images, original = torch.randn(3, 1, 6, 6, generator=stream), ExitNetwork(toy_backbone().eval(), network.exits)
    joined = approach.inference_network(network)
    for both, before, after in zip(joined.hidden(images), original.hidden(images), network.hidden(images), strict=True):
        first, second = both.chunk(2, 1)
        torch.testing.assert_close(first, before)
        torch.testing.assert_close(second, after)
    assert not torch.equal(first, second)
    # The heads answer as they learned to, cosines a positive factor apart.
    ratios = joined(images)[-1] / network(images)[-1]
    assert ratios.min() > 0
    torch.testing.assert_close(ratios[:, :1], ratios[:, 1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tuning", ["prompt_shallow", "prompt_deep"])
def test_features_without_and_with_prompts_are_joined(toy_benchmark, toy_trainer, toy_learn, tuning):
    with global_stream(0, "backbone"):
        backbone = ViT((1, 6, 6), patch=3, width=8, depth=2, heads=2)
    approach, exits = APER(tuning, length=3), Exits(["block_0"], [0.5])
    original = ExitNetwork(copied(backbone).eval(), exits)
    approach.prepare(backbone)
    network = ExitNetwork(backbone, exits, approach.build_classifier)
    toy_learn(approach, network, toy_benchmark().tasks[:1])
    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    joined = approach.inference_network(network)
    outputs = (each.hidden(images) for each in (joined, original, network))
    for both, before, after in zip(*outputs, strict=True):
        if both.ndim == 3:  # tokens, of which the class token is the first
            both, before, after = both[:, 0], before[:, 0], after[:, 0]
        torch.testing.assert_close(both, torch.cat([before, after], 1))
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("tuning", ["finetune", "adapter", "ssf"])
def test_nothing_learns_after_the_first_task(toy_run, toy_benchmark, tuning):
    one, three = (
        Checkpoint.load(
            toy_run(APER(tuning), f"{tasks}", "sdn", benchmark=toy_benchmark(tasks=3), keep_checkpoints=True).path
            / "checkpoints"
            / f"task_{tasks}.pt"
        )
        for tasks in (0, 2)
    )
    assert one.steps == three.steps > 0
    backbone = {key: value for key, value in one.network.items() if key.startswith("backbone.")}
    assert all(torch.equal(value, three.network[key]) for key, value in backbone.items() if torch.is_tensor(value))


def test_scale_and_shift_answer_in_two_passes_and_no_more(prepared, toy_network):
    approach, network = prepared(tuning="ssf")
    network.grow(2, 0)
    plain, joined = toy_network("sdn"), approach.inference_network(network)
    costs = [exit_costs(each).exits for each in (plain, joined)]
    # A head reads twice as much, and its poolings are no products.
    assert costs[1] == [2 * cost for cost in costs[0]]


def test_a_finished_run_answers_early_from_its_folder_and_from_a_file(digits_run, tmp_path):
    backbone = ["--backbone", "ViT", "--backbone.width", "16", "--backbone.depth", "2", "--backbone.patch", "4"]
    directory = digits_run("--approach", "APER", "--approach.width", "4", *backbone, "--exits", "ln")
    run = finished(directory, "cpu")
    images, stored = run.trainer.augmentation.apply(run.last_task.test.images[:20]), directory.outputs(1)
    logits = stored.logits[:, stored.tasks == 1][:, :20]
    torch.testing.assert_close(run.objects.approach.answer(run.network, images), logits, rtol=1e-4, atol=1e-4)
    model = EarlyExitModel(run.network, run.objects.approach, Confidence((0.0, 0.0)), fold=True)
    save(model, tmp_path / "model.pt", directory.config)
    for each in (model, load(tmp_path / "model.pt", "cpu")):
        assert torch.equal(each(images).predictions, logits[0].argmax(-1))


def test_impossible_settings_are_refused(prepared):
    with pytest.raises(ConfigurationError, match=r"unknown approach\.tuning 'adapters'; did you mean 'adapter'"):
        APER(tuning="adapters")
    with pytest.raises(ConfigurationError, match="width of adapters is 0"):
        prepared(width=0)
    with pytest.raises(ConfigurationError, match=r"APER\.tuning prompt_deep needs a .*transformer"):
        prepared(tuning="prompt_deep")
    with pytest.raises(ConfigurationError, match="length of prompts is 0"):
        APER("prompt_deep", length=0).prepare(ViT((1, 6, 6), patch=3, width=8, depth=1, heads=2))
    with pytest.raises(ConfigurationError, match="neither feed-forward networks nor convolutions"):
        APER().prepare(Backbone((1, 6, 6), {"flat": torch.nn.Flatten()}))
