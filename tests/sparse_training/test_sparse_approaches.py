"""Masks hold whatever an approach does to its network: copies, branches, adapters, gates, noise, weights set to 0."""

import pytest
import torch

from cl_ac.approach import Approach
from cl_ac.approaches.hat import HAT
from cl_ac.backbones.gating import make_gated, parameters_between
from cl_ac.backbones.parallel_adapters import adapters, add_parallel_adapters, fold_adapters
from cl_ac.data.seeding import global_stream
from cl_ac.network import ExitNetwork
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.settings.plugins import classes
from cl_ac.sparse_training.layers import masked_layers
from cl_ac.sparse_training.sparse import Sparse

OPTIONS = {
    "ANCL": {},
    "CLSER": {},
    "DyER": {"classifier_epochs": 1},
    "EEIL": {"balanced_epochs": 1},
    "FOSTER": {"compression_epochs": 1},
    "HAT": {},
    "PackNet": {"retrain_epochs": 1},
    "SSRE": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_masked_stays_masked(toy_run, name):
    with global_stream(0, "approach"):
        approach = classes("approach", Approach)[name](**OPTIONS[name])
    end_step, steps = approach.end_step, []

    def watched(network: ExitNetwork) -> None:
        end_step(network)
        layers = list(masked_layers(network))
        steps.append(len(layers))
        assert all((layer.weight[~layer.mask.kept] == 0).all() for layer in layers)

    approach.end_step = watched
    memory = 12 if approach.memory_use == "required" else 0
    directory = toy_run(approach, "run", "sdn", memory, sparse=Sparse(0.4), keep_checkpoints=True)
    assert min(steps) >= 2
    states = [Checkpoint.load(directory.path / "checkpoints" / f"task_{task}.pt").network for task in range(3)]
    masks = [{name: value for name, value in state.items() if name.endswith(".kept")} for state in states]
    for key in masks[0].keys() & masks[2].keys():
        assert torch.equal(masks[0][key], masks[2][key])
    assert all(not kept.all() for kept in masks[2].values())


def sparse_network(toy_trainer, task, toy_backbone, prepare) -> ExitNetwork:
    backbone = toy_backbone()
    prepare(backbone)
    network = ExitNetwork(backbone)
    sparse = Sparse(0.5)
    sparse.prepare(network)
    sparse.initialise(network, task, toy_trainer)
    return network.eval()


def test_folded_adapters_change_no_answer_and_no_masked_weight(toy_trainer, toy_benchmark, toy_backbone):
    task = toy_benchmark().tasks[0]
    network = sparse_network(toy_trainer, task, toy_backbone, add_parallel_adapters)
    images = torch.randn(3, 1, 6, 6)
    for adapter in adapters(network.backbone):
        torch.nn.init.normal_(adapter)
    before = network.features(images)[0]
    assert not torch.equal(before, torch.zeros_like(before))
    fold_adapters(network.backbone)
    torch.testing.assert_close(network.features(images)[0], before)
    for layer in masked_layers(network):
        assert (layer.weight[~layer.mask.kept] == 0).all()


def test_gates_protect_masked_weights_as_others(toy_trainer, toy_benchmark, toy_backbone):
    dense = toy_backbone()
    make_gated(dense)
    network = sparse_network(toy_trainer, toy_benchmark().tasks[0], toy_backbone, HAT().prepare)
    units = torch.tensor([True, False, True, True, False, True, True, False] * 2)
    count = sum(len(gate.value) for gate in dense.modules() if type(gate).__name__ == "Gate")
    expected, found = (parameters_between(each, units[:count]) for each in (dense, network.backbone))
    plain = {name.replace("parametrizations.", "").replace(".original", ""): mask for name, mask in found.items()}
    assert plain.keys() == expected.keys()
    assert all(torch.equal(mask, expected[name]) for name, mask in plain.items())
    assert any(mask.ndim > 1 and mask.any() for mask in plain.values())
