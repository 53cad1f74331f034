"""The network as it was after the previous task."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from cl_ac.benchmark import Task
from cl_ac.network import ExitNetwork

if TYPE_CHECKING:
    from cl_ac.training import Trainer

TeacherStatistics = Literal["frozen", "batch"]


class Teacher(nn.Module):
    """A frozen copy of a network that is asked for its logits; empty until `update` is called.

    Args:
        batch_norm: the statistics its batch norm uses: `frozen`, those of the old task; `batch`, those of the batch at
            hand, which is teacher adaptation (Szatkowski et al., 2024).
    """

    def __init__(self, batch_norm: TeacherStatistics = "frozen") -> None:
        super().__init__()
        self.batch_norm = batch_norm
        self.network: ExitNetwork | None = None

    def update(self, network: ExitNetwork) -> None:
        """Takes a deep copy of `network` as it is now."""
        self.network = network.frozen_copy()

    def begin_task(self, task: Task, trainer: "Trainer") -> None:
        """Prepares the copy for teaching `task`."""

    def train(self, mode: bool = True) -> "Teacher":
        """Does nothing: a teacher never trains."""
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits [E, B, C_old] of the copy."""
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(self.batch_norm == "batch")
        return self.network(images)
