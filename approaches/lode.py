"""LODE: telling new classes from old ones, and from each other, are two losses."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.losses import cross_entropy, intertask_cross_entropy


class LODE(Approach):
    """Loss decoupling (Liang & Li, 2023) with experience replay.

    `C · CE(new; new classes) + ρ · n_new / n_old · CE(new; new against old) + CE(exemplars; all classes)`, where n are
    numbers of classes. The first task has plain cross-entropy.

    New images and exemplars pass the network one after the other, as in the original: batch normalisation takes the
    statistics of each batch alone. The last, smaller batch of an epoch is trained on too; the published code drops it.

    Args:
        intra_weight: weight of telling new classes from each other (C).
        inter_weight: weight of telling new classes from old ones (ρ).
    """

    family = "rebalancing"
    memory_use = "required"

    def __init__(self, intra_weight: float = 1.0, inter_weight: float = 0.1):
        super().__init__()
        self.intra_weight, self.inter_weight = intra_weight, inter_weight

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory.samples, replay=(None,))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        logits = network(batch.images)
        intra = cross_entropy(logits, batch.targets, task.classes)
        if task.is_first:
            return intra
        inter = intertask_cross_entropy(logits, task.classes) * task.num_classes / task.old_classes.stop
        exemplars = batch.replay[0]
        replayed = cross_entropy(network(exemplars.images), exemplars.targets, task.seen_classes)
        return self.intra_weight * intra + self.inter_weight * inter + replayed
