"""Runs with prompts, on our transformer and on timm's."""

from dataclasses import replace

import pytest
import torch

from cl_ac.approaches.coda_prompt import CODAPrompt
from cl_ac.approaches.dual_prompt import DualPrompt
from cl_ac.approaches.l2p import L2P
from cl_ac.backbones.vit import ViT
from cl_ac.backbones.wrapped import TimmModel
from cl_ac.data.seeding import global_stream
from cl_ac.network import Exits
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.journal import Journal
from cl_ac.training import FrozenOutputs, Training

APPROACHES = {
    "L2P": lambda: L2P(pool=4, length=2, chosen=2),
    "DualPrompt": lambda: DualPrompt((0,), (1, 2), 2, 2),
    "CODAPrompt": lambda: CODAPrompt(2, 4, (0, 2)),
}
TRAINING = Training(epochs=2, batch_size=8, optimizer="adamw", lr=0.01, schedule="constant")


def ours():
    return ViT((1, 6, 6), 3, 8, 3, 2), Exits(["block_0", "block_1"], [0.3, 0.6])


def timm():
    pytest.importorskip("timm")
    options = {"img_size": 6, "patch_size": 3, "embed_dim": 8, "depth": 3, "num_heads": 2, "num_classes": 2}
    model = TimmModel((1, 6, 6), "vit_tiny_patch16_224", options=options)
    return model, Exits(["blocks.0", "blocks.1"], [0.3, 0.6])


@pytest.fixture
def prompted_run(toy_run, toy_benchmark):
    """Runs an approach on two tasks with a transformer."""

    def make(name, make_backbone, run="run", benchmark=None, **options):
        with global_stream(0, "backbone"):
            backbone, exits = make_backbone()
        benchmark = toy_benchmark(8, tasks=2) if benchmark is None else benchmark
        given = {"backbone": backbone, "training": TRAINING, "benchmark": benchmark, **options}
        return toy_run(APPROACHES[name](), run, exits, **given)

    return make


class Stopped(Exception):
    pass


@pytest.mark.parametrize("make_backbone", [ours, timm])
@pytest.mark.parametrize("name", APPROACHES)
def test_a_stopped_run_goes_on_to_the_same_bits(prompted_run, monkeypatch, name, make_backbone):
    whole, original = prompted_run(name, make_backbone, "whole"), Journal.epoch

    def stop(self, task, report):
        original(self, task, report)
        if (task.index, report.epoch) == (1, 0):
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", stop)
        with pytest.raises(Stopped):
            prompted_run(name, make_backbone, "stopped")
    resumed = prompted_run(name, make_backbone, "stopped", resume=True)
    assert torch.equal(resumed.outputs(1).logits, whole.outputs(1).logits)
    states = [Checkpoint.load(run.checkpoint_path).network for run in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]) if isinstance(value, torch.Tensor) else value == states[1][key]


@pytest.mark.parametrize("name", APPROACHES)
def test_kept_queries_change_no_bit(prompted_run, toy_benchmark, name):
    runs = []
    for keep in (True, False):
        benchmark = toy_benchmark(8, tasks=2)
        benchmark.augmentation = replace(benchmark.augmentation, crop="none", flip=False)
        training = replace(TRAINING, frozen_outputs=FrozenOutputs(keep=keep))
        runs.append(prompted_run(name, ours, f"keep {keep}", benchmark, training=training))
    assert torch.equal(runs[0].outputs(1).logits, runs[1].outputs(1).logits)
