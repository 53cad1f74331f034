"""GEM: no step raises the loss on the exemplars of any earlier task."""

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.errors import ConfigurationError
from cl_ac.importance.projection import constrained
from cl_ac.losses import cross_entropy, cross_entropy_per_sample


class GEM(Approach):
    """Gradient episodic memory (Lopez-Paz & Ranzato, 2017, eq. 11).

    Where the gradient g on new images has a negative product with the gradient g_k on the exemplars of any earlier
    task k, it becomes the closest one that has none, `g + Σ_k v_k g_k`. Each exit's gradient is projected on its own,
    over all parameters that the exit depends on. A step takes as many more backward passes as there are earlier tasks
    and the new one, times the exits: `AGEM` is the cheap version, with the same words of caution.

    Args:
        replay: exemplars in each step; None takes the whole memory, as in the paper.
        margin: least v_k of a step that has to be turned at all (the paper's γ, as in the authors' code).
        ridge: what is added to the diagonal of the products of the g_k.
    """

    memory_use = "required"

    def __init__(self, replay: int | None = None, margin: float = 0.5, ridge: float = 1e-3):
        super().__init__()
        if margin < 0 or ridge < 0:
            raise ConfigurationError(f"GEM.margin is {margin} and GEM.ridge {ridge}; both must be at least 0")
        self.replay, self.margin, self.ridge = replay, margin, ridge

    def training_set(self, task: Task) -> TrainingSet:
        exemplars = self.memory.samples
        replay = len(exemplars) if self.replay is None and len(exemplars) else self.replay
        return TrainingSet(task.train, task, exemplars, replay=(replay,))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task, exemplars = batch.task, batch.replay[0]
        loss = cross_entropy(network(batch.images), batch.targets, task.seen_classes)
        if task.is_first:
            return loss
        each = cross_entropy_per_sample(network(exemplars.images), exemplars.targets, task.seen_classes)  # [E, B]
        of_tasks = []
        for old in task.old_tasks:
            members = ((exemplars.targets >= old.start) & (exemplars.targets < old.stop)).to(each.dtype)
            of_tasks.append(each @ members / members.sum().clamp(min=1))
        return constrained(network, loss, torch.stack(of_tasks), self.margin, self.ridge)
