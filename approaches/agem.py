"""A-GEM: no step goes against the gradient of exemplars."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.importance.projection import constrained
from cl_ac.losses import cross_entropy


class AGEM(Approach):
    """Averaged gradient episodic memory (Chaudhry et al., 2019, eq. 11).

    Where the gradient g on new images has a negative product with the gradient g_ref on a draw of exemplars, its
    component along g_ref is taken away: `g − (g·g_ref / g_ref·g_ref) g_ref`. Each exit's gradient is projected on its
    own, over all parameters that the exit depends on, its head included.

    New images and exemplars pass the network one after the other, both in training mode, as in public code. The method
    was made for tasks that are known at test time and for a single pass over the data: exemplars are constraints and
    teach nothing, so that old classes are still forgotten where all classes share one softmax.

    Args:
        replay: exemplars in each step; by default as many as new images.
    """

    memory_use = "required"

    def __init__(self, replay: int | None = None):
        super().__init__()
        self.replay = replay

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory.samples, replay=(self.replay,))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        classes, exemplars = batch.task.seen_classes, batch.replay[0]
        loss = cross_entropy(network(batch.images), batch.targets, classes)
        if batch.task.is_first:
            return loss
        reference = cross_entropy(network(exemplars.images), exemplars.targets, classes)
        return constrained(network, loss, reference[None])
