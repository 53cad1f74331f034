"""A-GEM: no step goes against the gradient of exemplars."""

from typing import Literal

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.importance.projection import constrained
from cl_ac.losses import cross_entropy, cross_entropy_per_sample, sample_mean, taskwise_cross_entropy_per_sample


class AGEM(Approach):
    """Averaged gradient episodic memory (Chaudhry et al., 2019, eq. 11).

    Where the gradient g on new images has a negative product with the gradient g_ref on a draw of exemplars, its
    component along g_ref is taken away: `g − (g·g_ref / g_ref·g_ref) g_ref`. Each exit's gradient is projected on its
    own, over all parameters that the exit depends on, its head included.

    New images and exemplars pass the network one after the other, both in training mode, as in public code. The method
    was made for tasks that are known at test time and for a single pass over the data: exemplars are constraints and
    teach nothing, so that old classes are still mistaken for new ones where the task is not known.

    Args:
        replay: exemplars in each step; by default as many as a full batch has new images.
        among: what every image is classified among: `all` classes, as where the task is not known, or the classes of
            its own `task`, as in the paper.
    """

    family = "replay"
    memory_use = "required"
    copes_with = frozenset({"repeated classes", "live memory"})

    def __init__(self, replay: int | None = None, among: Literal["all", "task"] = "all"):
        super().__init__()
        self.replay, self.among = replay, among
        if among == "task":
            self.copes_with = frozenset()

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory, replay=(self.replay,))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        classes = task.classes if self.among == "task" else task.seen_classes
        loss = cross_entropy(network(batch.images), batch.targets, classes)
        if not len(exemplars := batch.replay[0]):
            return loss
        logits = network(exemplars.images)
        if self.among == "task":
            losses = taskwise_cross_entropy_per_sample(logits, exemplars.targets, task.old_tasks)
        else:
            losses = cross_entropy_per_sample(logits, exemplars.targets, task.seen_classes)
        return self.constrained(network, loss, losses, exemplars)

    def constrained(self, network: ExitNetwork, loss: Tensor, losses: Tensor, exemplars: Batch) -> Tensor:
        """The loss on new images [E], held back by the losses of exemplars [E, B]."""
        return constrained(network, loss, sample_mean(losses)[None])
