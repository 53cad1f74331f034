"""PackNet without pruning: each task has a mask of its own from the start, in which its weights are orthogonal."""

import torch

from cl_ac.approach import Batch, ExitNetwork
from cl_ac.approaches.packnet import FREE, PackNet
from cl_ac.errors import ConfigurationError
from cl_ac.importance.disjoint import check_layers, give_share
from cl_ac.importance.gradients import protected
from cl_ac.importance.holding import split


class OrthogonalPackNet(PackNet):
    """PackNet (Mallya & Lazebnik, 2018) with disjoint exactly orthogonal masks (after EOI; Nowak et al., 2024).

    Of each layer's weights every task has a share that no other has, and which starts as a sparse, exactly orthogonal
    matrix, at the centre of the kernels of convolutions. So nothing is pruned or retrained, and there is room for a
    number of tasks that is chosen before. As in PackNet, the network of a task has its own weights and those of the
    tasks before it; biases and batch norm belong to the first task, with its statistics. It is no published method.

    Args:
        tasks: for how many there is room; each has at most so small a part of the weights.
    """

    def __init__(self, tasks: int = 5):
        super().__init__()
        if tasks < 2:
            raise ConfigurationError(f"approach.tasks is {tasks}; it must be at least 2")
        self.tasks = tasks

    def prepare(self, backbone) -> None:
        check_layers(backbone, self.tasks)

    @torch.no_grad()
    def begin_task(self, task, network, trainer) -> None:
        super().begin_task(task, network, trainer)
        if task.index >= self.tasks:
            raise ConfigurationError(f"approach.tasks is {self.tasks}, but there is a task {task.index + 1}; raise it")
        owners = split(network, self.owner)
        for index, (name, parameter) in enumerate(protected(network).items()):
            if task.is_first:
                # Biases and norms; weights are zero until a task takes them.
                owners[name].fill_(FREE if parameter.ndim > 1 else task.index)
                parameter.mul_(parameter.ndim < 2)
            if parameter.ndim > 1:
                stream = trainer.generator("orthogonal masks", task.index, index)
                owners[name][give_share(parameter, task.index, self.tasks, stream)] = task.index

    def loss(self, network: ExitNetwork, batch: Batch):
        return self.loss_of(self.owner == batch.task.index, network, batch)

    def end_task(self, task, network, trainer) -> None:
        """Nothing is pruned."""
