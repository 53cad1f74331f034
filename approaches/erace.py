"""ER-ACE: new images push no class away that is not among them."""

from typing import Literal

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.losses import cross_entropy, present_cross_entropy


class ERACE(Approach):
    """Experience replay with asymmetric cross-entropy (Caccia et al., 2022).

    New images are classified among the classes of their own batch, so that features of old classes are not disturbed,
    and exemplars among all classes. Old and new classes are told apart on exemplars alone: before each task, the first
    included, the memory takes up its share of the new classes, as in other offline versions. (The original, which sees
    each image once, fills it while it trains, as a memory with the selection `live` does.)

    New images and exemplars pass the network one after the other, as in the authors' code.

    Args:
        replay: exemplars in each step; by default as many as a full batch has new images.
        among: what new images are classified among: the classes present in the `batch`, or all classes of the `task`.
    """

    family = "replay"
    memory_use = "required"
    copes_with = frozenset({"repeated classes", "live memory", "no boundaries"})

    def __init__(self, replay: int | None = None, among: Literal["batch", "task"] = "batch"):
        super().__init__()
        self.replay, self.among = replay, among
        if among == "task":
            self.copes_with = frozenset({"live memory"})

    def begin_task(self, task, network, trainer) -> None:
        self.memory.update(task.train, trainer.generator("exemplars", task.index), network, trainer)

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory, replay=(self.replay,))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task, exemplars = batch.task, batch.replay[0]
        logits = network(batch.images)
        if self.among == "batch":
            loss = present_cross_entropy(logits, batch.targets)
        else:
            loss = cross_entropy(logits, batch.targets, task.classes)
        if not len(exemplars):
            return loss
        return loss + cross_entropy(network(exemplars.images), exemplars.targets, task.seen_classes)

    def choose_exemplars(self, task, network, trainer) -> None:
        """Chooses none: they were chosen before training."""
