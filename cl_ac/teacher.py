"""The network as it was after the previous task, and the batch-norm statistics that it teaches with."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cl_ac.data.tasks import Task
from cl_ac.network import ExitNetwork, batch_norms
from cl_ac.training import Trainer

TeacherStatistics = Literal["frozen", "batch", "pretrained", "continuous"]


class Teacher(nn.Module):
    """A frozen copy of a network that is asked for its logits; empty until `update` is called.

    Only the statistics of its batch norm ever change, never a weight, and no dropout is switched on (published code
    puts the whole teacher in training mode). A network without batch norm teaches the same with every setting; frozen
    stages normalise as the learning network's do, with the statistics that they came with.

    Args:
        batch_norm: the statistics that its batch norm normalises with: `frozen`, those of the old task; `batch`, those
            of the batch at hand, which is teacher adaptation (Szatkowski et al., 2024); `pretrained`, those of the new
            task's data, estimated once before the task; `continuous`, running statistics that each batch updates
            before it is taught. The last two are the paper's alternatives `bnp` and `cbnt`, whose code moves nothing
            but these statistics.
    """

    def __init__(self, batch_norm: TeacherStatistics = "frozen") -> None:
        super().__init__()
        self.batch_norm = batch_norm
        self.network: ExitNetwork | None = None

    def update(self, network: ExitNetwork) -> None:
        """Takes a deep copy of `network` as it is now."""
        self.network = network.frozen_copy()

    def begin_task(self, task: Task, trainer: Trainer) -> None:
        """Prepares the copy for teaching `task`: call it before training, once the copy has been taken."""
        if self.network is None or self.batch_norm != "pretrained":
            return
        layers = _adapting(self.network)
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over batches
        count = len(task.train)
        for batch in trainer.loader(task.train).shuffled(
            trainer.training.batch_size, count, trainer.generator("teacher statistics", task.index), task
        ):
            # As in training, a single left-over sample has no statistics.
            if len(batch) > 1:
                with torch.no_grad(), trainer.autocast():
                    self._run(batch.images, batch_statistics=True)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

    def train(self, mode: bool = True) -> "Teacher":
        """Does nothing: a teacher never trains."""
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, read: Callable[[ExitNetwork, Tensor], Any] = ExitNetwork.__call__) -> Any:
        """What the copy says of `images`.

        Args:
            read: what to ask it for, such as `ExitNetwork.features`; by default its logits [E, B, C_old].
        """
        if self.batch_norm == "continuous":
            self._run(images, batch_statistics=True)
        return self._run(images, self.batch_norm == "batch", read)

    def _run(self, images: Tensor, batch_statistics: bool, read=ExitNetwork.__call__) -> Any:
        network = self.network
        if network is None:
            raise RuntimeError("a teacher is asked before `update` gave it a network")
        for layer in _adapting(network):
            layer.training = batch_statistics
        return read(network, images)


def _adapting(network: ExitNetwork) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norm of all but frozen stages."""
    frozen = {
        layer for stage in network.backbone.stages[: network.backbone.frozen_stages] for layer in batch_norms(stage)
    }
    return [layer for layer in batch_norms(network) if layer not in frozen]
