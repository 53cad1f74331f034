"""Experience replay: exemplars in every batch."""

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.losses import cross_entropy


class ER(Approach):
    """Experience replay (Rolnick et al., 2019; Riemer et al., 2019): one pass over new images and exemplars together.

    They share a forward pass, so that batch normalisation sees old and new classes.

    Args:
        replay: exemplars in each step; by default as many as a full batch has new images.
    """

    family = "replay"
    memory_use = "required"
    copes_with = frozenset({"repeated classes", "live memory", "no boundaries"})

    def __init__(self, replay: int | None = None):
        super().__init__()
        self.replay = replay

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory, replay=(self.replay,), drop_last=True)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        exemplars = batch.replay[0]
        logits = network(torch.cat([batch.images, exemplars.images]))
        return cross_entropy(logits, torch.cat([batch.targets, exemplars.targets]), batch.task.seen_classes)
