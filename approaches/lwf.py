"""Learning without Forgetting: the previous network teaches the present one its old classes."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.losses import cross_entropy, taskwise_distillation
from cl_ac.teacher import Teacher


class LwF(Approach):
    """Learning without Forgetting (Li & Hoiem, 2016, eq. 3) with task-wise distillation (Ahn et al., 2021).

    Args:
        strength: weight of the distillation term.
        temperature: softmax temperature of teacher and student.
    """

    def __init__(self, strength: float = 1.0, temperature: float = 2.0):
        super().__init__()
        self.strength, self.temperature = strength, temperature
        self.teacher = Teacher()

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        logits = network(batch.images)
        loss = cross_entropy(logits, batch.targets, self.trained_classes(task))
        if task.is_first:
            return loss
        old_logits = self.teacher(batch.images)
        return loss + self.strength * taskwise_distillation(logits, old_logits, task.old_tasks, self.temperature)

    def end_task(self, task, network, trainer) -> None:
        self.teacher.update(network)
        super().end_task(task, network, trainer)
