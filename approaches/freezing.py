"""Freezing: the backbone of the first task serves all later ones."""

from typing import ClassVar

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Family, Task, TrainingSet
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy


class Freezing(Approach):
    """Trains everything up to one task, then only the classifiers, on a backbone that no longer changes.

    The frozen backbone runs in evaluation mode, so that its batch statistics stay too. Of the classifiers, those of the
    current task learn; with exemplars, all.

    Args:
        freeze_after: index of the last task that trains the backbone.
        train_heads: whether the linear heads go on learning. Without, nothing is fitted on later tasks: an inference
            classifier (`--classifier`) has to learn them in its own way.
    """

    family: ClassVar[Family] = "baseline"
    copes_with = frozenset({"repeated classes"})

    def __init__(self, freeze_after: int = 0, train_heads: bool = True):
        super().__init__()
        if freeze_after < 0:
            raise ConfigurationError(f"approach.freeze_after is {freeze_after}; it must be at least 0")
        self.freeze_after, self.train_heads = freeze_after, train_heads

    def training_set(self, task: Task) -> TrainingSet | None:
        return super().training_set(task) if self.train_heads or task.index <= self.freeze_after else None

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        frozen = batch.task.index > self.freeze_after
        if frozen:
            network.backbone.eval()
        # Parameters without a gradient are left alone by the optimiser, weight decay included.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            hidden = network.hidden(batch.images)
        return cross_entropy(network.classify(hidden), batch.targets, self.trained_classes(batch.task))
