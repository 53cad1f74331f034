"""Fine-tuning: what happens when nothing is done against forgetting."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.losses import cross_entropy


class FineTuning(Approach):
    """Cross-entropy on each task in turn (FT); with a memory, on the task's data and the exemplars together (FT+Ex)."""

    family = "baseline"
    copes_with = frozenset({"repeated classes", "no boundaries"})

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        return cross_entropy(network(batch.images), batch.targets, self.trained_classes(batch.task))
