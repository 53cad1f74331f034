"""GEM: no step raises the loss on the exemplars of any earlier task."""

from typing import Literal

import torch
from torch import Tensor

from cl_ac.approach import Batch, ExitNetwork, Task, TrainingSet
from cl_ac.approaches.agem import AGEM
from cl_ac.errors import ConfigurationError
from cl_ac.importance.projection import constrained


class GEM(AGEM):
    """Gradient episodic memory (Lopez-Paz & Ranzato, 2017, eq. 11).

    Where the gradient g on new images has a negative product with the gradient g_k on the exemplars of any earlier
    task k, it becomes the closest one that has none, `g + Σ_k v_k g_k`; with a margin, which every v_k of such a step
    is at least, exemplars teach as well. Everything else is as in `AGEM`, which is the cheap version: here a step takes
    one more backward pass for each earlier task and exit.

    Args:
        replay: exemplars in each step; None takes the whole memory, as in the paper.
        among: what every image is classified among: `all` classes, or those of its own `task`, as in the paper.
        margin: γ, the least that v_k may be in a step that is held back, as in the authors' code.
        ridge: what is added to the diagonal of the products of the g_k.
    """

    family = "replay"
    copes_with = frozenset()

    def __init__(
        self,
        replay: int | None = None,
        among: Literal["all", "task"] = "all",
        margin: float = 0.5,
        ridge: float = 1e-3,
    ):
        super().__init__(replay, among)
        if margin < 0 or ridge < 0:
            raise ConfigurationError(f"GEM.margin is {margin} and GEM.ridge {ridge}; both must be at least 0")
        self.margin, self.ridge = margin, ridge

    def training_set(self, task: Task) -> TrainingSet:
        exemplars = self.memory.samples
        replay = len(exemplars) if self.replay is None and len(exemplars) else self.replay
        return TrainingSet(task.train, task, exemplars, replay=(replay,))

    def constrained(self, network: ExitNetwork, loss: Tensor, losses: Tensor, exemplars: Batch) -> Tensor:
        of_tasks = []
        for old in exemplars.task.old_tasks:
            members = ((exemplars.targets >= old.start) & (exemplars.targets < old.stop)).to(losses.dtype)
            of_tasks.append((losses * members).sum(1) / members.sum().clamp(min=1))
        return constrained(network, loss, torch.stack(of_tasks), self.margin, self.ridge)
