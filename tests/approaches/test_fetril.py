"""Methods on a frozen backbone: the first task trains the network, classifiers of the same names learn the others."""

import pytest
import torch

from cl_ac.approaches.acil import ACIL, DSAL
from cl_ac.approaches.fecam import FeCAM
from cl_ac.approaches.fetril import FeTrIL
from cl_ac.approaches.freezing import Freezing
from cl_ac.approaches.ranpac import RanPAC
from cl_ac.recording.checkpoint import Checkpoint

METHODS = {
    FeTrIL: {"strength": 2.0},
    FeCAM: {"tukey": 0.7, "off_diagonal": 0.5},
    ACIL: {"width": 16, "ridge": 0.5},
    DSAL: {"width": 16, "compensation": 0.3},
    RanPAC: {"width": 32, "ridge": None},
}


@pytest.mark.parametrize("method", METHODS)
def test_the_method_is_its_classifier_on_a_backbone_that_the_first_task_trained(toy_run, method):
    approach = method(**METHODS[method])
    directory = toy_run(approach, "method", exits="sdn")
    assert type(approach.inference).__name__ == method.__name__
    assert {name: getattr(approach.inference, name) for name in METHODS[method]} == METHODS[method]
    states = Checkpoint.load(directory.checkpoint_path)
    assert states.steps == 6
    # The same by its parts.
    parts = toy_run(Freezing(train_heads=False), "parts", "sdn", classifier=type(approach.inference)(**METHODS[method]))
    assert torch.equal(directory.outputs(2).logits, parts.outputs(2).logits)


@pytest.mark.parametrize("method", METHODS)
def test_old_classes_are_not_forgotten(toy_run, toy_benchmark, method):
    directory = toy_run(method(**METHODS[method]), exits="sdn", benchmark=toy_benchmark(per_class=30))
    outputs = directory.outputs(2)
    first = (outputs.logits.argmax(-1) == outputs.targets)[:, outputs.tasks == 0]
    assert first.double().mean() > 0.6
