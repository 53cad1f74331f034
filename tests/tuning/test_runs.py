"""Runs of the methods that tune pretrained networks, on transformers of random weights."""

import pytest
import torch

from cl_ac.approach import Approach
from cl_ac.approaches.aper import APER
from cl_ac.approaches.ease import EASE
from cl_ac.approaches.lae import LAE
from cl_ac.approaches.slca import SLCA
from cl_ac.backbones.vit import ViT
from cl_ac.backbones.wrapped import TimmModel
from cl_ac.data.seeding import global_stream
from cl_ac.network import Backbone, Exits
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.run import Journal

METHODS = {
    "SLCA": lambda: SLCA(alignment_epochs=1, samples=8),
    "APER, adapter": lambda: APER(width=4),
    "APER, ssf": lambda: APER("ssf"),
    "APER, finetune": lambda: APER("finetune"),
    "APER, prompt_shallow": lambda: APER("prompt_shallow", length=2),
    "APER, prompt_deep": lambda: APER("prompt_deep", length=2),
    "EASE": lambda: EASE(width=4),
    "LAE, adapter": lambda: LAE(width=2, frozen_epochs=1, decay=0.5),
    "LAE, prefix": lambda: LAE("prefix", length=2, frozen_epochs=1, decay=0.5),
    "LAE, lora": lambda: LAE("lora", width=2, frozen_epochs=1, decay=0.5),
}
FROZEN = [name for name in METHODS if name != "SLCA" and "finetune" not in name]


def vit(name: str) -> tuple[Backbone, Exits]:
    """A backbone for images of 6 × 6, and an AC on its first block."""
    with global_stream(0, "backbone"):
        if name == "ViT":
            return ViT((1, 6, 6), patch=3, width=8, depth=2, heads=2), Exits(["block_0"], [0.5])
        pytest.importorskip("timm")
        options = {"img_size": 6, "patch_size": 3, "depth": 2, "embed_dim": 8, "num_heads": 2}
        return TimmModel((1, 6, 6), "vit_tiny_patch16_224", options=options), Exits(["blocks.0"], [0.5])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", ["ViT", "timm"])
@pytest.mark.parametrize("method", METHODS)
def test_two_tasks_and_resuming_inside_the_second(toy_run, toy_benchmark, monkeypatch, method, name):
    def start(directory: str, resume: bool = False):
        backbone, exits = vit(name)
        benchmark = toy_benchmark(tasks=2)
        return toy_run(METHODS[method](), directory, exits, backbone=backbone, benchmark=benchmark, resume=resume)

    whole = start("whole")
    outputs = whole.outputs(1)
    assert outputs.logits.shape[0] == 2
    assert outputs.logits.isfinite().all()

    keep, counts = {what: getattr(Journal, what) for what in ("epoch", "untrained")}, {"epoch": 1, "untrained": 2}
    passed = 0

    def stop(what):
        def kept(self, *args):
            nonlocal passed
            keep[what](self, *args)
            passed += counts[what]
            # APER learns no second task, of which nothing is interrupted then.
            if passed >= 3:
                raise Stopped

        return kept

    with monkeypatch.context() as patch:
        for what in keep:
            patch.setattr(Journal, what, stop(what))
        with pytest.raises(Stopped):
            start("stopped")
    resumed = start("stopped", resume=True)
    assert torch.equal(resumed.outputs(1).logits, outputs.logits)
    first, second = (Checkpoint.load(run.checkpoint_path) for run in (whole, resumed))
    for one, other in ((first.network, second.network), (first.approach, second.approach)):
        assert one.keys() == other.keys()
        tensors = {key: value for key, value in one.items() if isinstance(value, torch.Tensor)}
        assert all(torch.equal(value, other[key]) for key, value in tensors.items())


@pytest.mark.parametrize("name", ["ViT", "timm"])
@pytest.mark.parametrize("method", FROZEN)
def test_the_backbone_stays_as_it_came(toy_run, toy_benchmark, method, name):
    backbone, exits = vit(name)
    approach: Approach = METHODS[method]()
    before = [(parameter, parameter.detach().clone()) for parameter in backbone.parameters()]
    toy_run(approach, "run", exits, backbone=backbone, benchmark=toy_benchmark(tasks=2))
    assert all(torch.equal(parameter, value) for parameter, value in before)
