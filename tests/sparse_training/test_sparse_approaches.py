"""Masks stay as they are, and what they mask stays zero, whatever an approach does to its network."""

import pytest
import torch

from cl_ac.approach import Approach
from cl_ac.data.seeding import global_stream
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.settings.plugins import classes
from cl_ac.sparse_training.layers import masked_layers
from cl_ac.sparse_training.sparse import Sparse

APPROACHES = classes("approach", Approach)
SHORT = {
    "ACIL": {"width": 16},
    "BiC": {"bias_epochs": 2},
    "DSAL": {"width": 16},
    "DyER": {"classifier_epochs": 2},
    "EEIL": {"balanced_epochs": 1},
    "FOSTER": {"compression_epochs": 2},
    "PODNet": {"balanced_epochs": 1},
    "PackNet": {"retrain_epochs": 1},
    "RWalk": {"interval": 2},
    "RanPAC": {"width": 16},
    "XDER": {"classes": 7},
    "XDERCE": {"classes": 7},
    "XDERRPC": {"classes": 7},
    "SCR": {"replay": 8},
}


@pytest.mark.parametrize("name", APPROACHES)
def test_masked_weights_are_zero_after_every_task(toy_run, name):
    with global_stream(0, "approach"):
        approach = APPROACHES[name](**SHORT.get(name, {}))
    memory = 12 if approach.memory_use == "required" else 0
    seen = []
    old = approach.end_step

    def watched(network):
        old(network)
        for layer in masked_layers(network):
            kept = layer.mask.kept
            assert (layer.original[~kept] == 0).all()
            seen.append(1)

    approach.end_step = watched
    directory = toy_run(approach, "run", "sdn", memory, sparse=Sparse(0.4), keep_checkpoints=True)
    print(len(seen))
    states = [Checkpoint.load(directory.path / "checkpoints" / f"task_{task}.pt").network for task in range(3)]
    for state in states:
        masks = {name: value for name, value in state.items() if name.endswith("kept")}
        assert len(masks) >= 2
        for key, kept in masks.items():
            original = state[key.rsplit(".", 2)[0] + ".original"]
            assert not kept.all()
            assert torch.equal(original * kept, original), key
    for key, kept in states[0].items():
        if key.endswith("kept") and key in states[-1]:
            assert torch.equal(kept, states[-1][key])
