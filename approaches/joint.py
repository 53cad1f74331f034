"""Joint training: the upper bound that may keep all data."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.data.samples import concatenate
from cl_ac.losses import cross_entropy


class Joint(Approach):
    """Cross-entropy on the data of all tasks so far, going on from the previous weights.

    All classifier rows learn. (The AC paper's code trains only those of the newest task, because it keeps no
    exemplars; that is not an upper bound.)
    """

    family = "baseline"
    memory_use = "none"
    sees_old_classes = True
    copes_with = frozenset({"repeated classes"})

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(concatenate(*(earlier.train for earlier in task.history())), task)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        return cross_entropy(network(batch.images), batch.targets, batch.task.seen_classes)
