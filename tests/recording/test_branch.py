import pytest
import torch

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.errors import ResumeError
from cl_ac.recording.branch import branch
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.rundir import RunDirectory


def test_a_branch_goes_on_with_other_settings_from_what_was_learned(toy_run, toy_benchmark, tmp_path):
    first, other = {"seed": 0, "training.lr": 0.05}, {"seed": 0, "training.lr": 0.1}
    source = toy_run(FineTuning(), "source", benchmark=toy_benchmark(classes_per_task=[2]), config=first)
    target = RunDirectory(tmp_path / "target")
    branch(source, target, other)
    before, after = Checkpoint.load(source.checkpoint_path), Checkpoint.load(target.checkpoint_path)
    assert after.task == before.task == 1
    assert all(torch.as_tensor(after.network[name] == value).all() for name, value in before.network.items())
    went_on = toy_run(FineTuning(), "target", benchmark=toy_benchmark(), config=other, resume=True)
    assert went_on.records[0] == source.records[0]
    assert len(went_on.records) == 3
    # It is the run of the other settings from here on, and the source stays what it was.
    with pytest.raises(ResumeError, match="other settings"):
        toy_run(FineTuning(), "target", config=first, resume=True)
    assert len(source.records) == 1
    branch(source, target, other)
    assert len(target.records) == 3
