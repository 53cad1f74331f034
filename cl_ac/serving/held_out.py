"""What is fitted to logits after training, on the test samples: thresholds, calibration, scores, task corrections.

Thresholds, calibration and scores are fitted to held-out training samples of all tasks. Most methods could not keep
them: what is fitted to them with many parameters, vector scaling above all, also takes back the preference for new
classes, and is an upper bound for such methods. Task-wise logits correction needs the last task's training data only.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cl_ac.data.samples import Samples, concatenate
from cl_ac.evaluation import ExitCosts, Outputs, ac_accuracy, average
from cl_ac.exits.calibration import (
    fit_tlc,
    rescale,
    task_shift,
)
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.finished import Finished, finished
from cl_ac.training import Trainer


def held_out_samples(run: Finished) -> tuple[Samples, Tensor] | None:
    """The held-out training samples of all tasks learned, and the task index of each; None if the run held none out.

    Tasks that are not tested on their own have none.
    """
    tasks = [task for task in run.last_task.history() if task.is_tested]
    parts = [task.validation for task in tasks]
    if any(not len(part) or part is task.test for part, task in zip(parts, tasks, strict=True)):
        return None
    indices = torch.cat([torch.full((len(task.validation),), task.index) for task in tasks])
    return concatenate(*parts), indices


def held_out_outputs(run: Finished, trainer: Trainer, cost: ExitCosts, images: int | None = None) -> Outputs | None:
    """The outputs on `held_out_samples`, on at most `images` of them drawn at random; None if there are none."""
    held_out = held_out_samples(run)
    if held_out is None:
        return None
    samples, indices = held_out
    some = _some(len(samples), images)
    samples, indices = samples.select(some), indices[some]
    logits = trainer.predict(run.network, samples, partial(run.objects.approach.answer, run.network))
    return Outputs(logits, samples.targets, indices, tuple(run.network.sizes), cost)


def held_out_accuracy(directory: RunDirectory) -> float | None:
    """The most confident exit's accuracy on the held-out training samples of a finished run, mean over tasks.

    It is what settings are chosen by without the test samples; None if the run held none out or has no checkpoint.
    """
    if not directory.checkpoint_path.exists():
        return None
    run = finished(directory, directory.config["device"])
    outputs = held_out_outputs(run, run.trainer, directory.outputs(directory.records[-1].task).cost)
    return None if outputs is None else average(ac_accuracy(outputs)).item()


@dataclass(frozen=True)
class Correction:
    """Task-wise logits correction (TLC), fitted to the training samples of the last task.

    Args:
        slope: what is added to the logits of a task's classes for each task that came after it.
        offset: what is added besides to those of all tasks but the last.
        before: the outputs on the test samples.
        after: the same, corrected.
    """

    slope: float
    offset: float
    before: Outputs
    after: Outputs

    def of(self, outputs: Outputs) -> Outputs:
        """Other outputs of the same network, corrected."""
        return rescale(outputs, torch.ones(()), task_shift(outputs.sizes, self.slope, self.offset))


def task_correction(run: Finished, trainer: Trainer, test: Outputs, images: int | None = None) -> Correction:
    """TLC of the outputs `test`, fitted to at most `images` training samples; after a single task it is nothing."""
    samples = run.objects.benchmark[len(test.sizes) - 1].train
    samples = samples.select(_some(len(samples), images))
    logits = trainer.predict(run.network, samples, partial(run.objects.approach.answer, run.network))
    slope, offset = fit_tlc(logits, test.sizes)
    return replace(correction := Correction(slope, offset, test, test), after=correction.of(test))


def _some(count: int, most: int | None) -> Tensor:
    """The indices of all of `count` samples, or of `most` of them drawn at random, in order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values
