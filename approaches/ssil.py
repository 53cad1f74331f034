"""SS-IL: new and old classes never meet in one softmax."""

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.losses import cross_entropy, separated_cross_entropy, taskwise_distillation
from cl_ac.teacher import Teacher, TeacherStatistics


class SSIL(Approach):
    """Separated softmax for incremental learning (Ahn et al., 2021, eq. 3 and 6).

    New images are classified among the new classes and exemplars among the old ones, and the teacher's softmax of each
    old task is distilled on both. Both share one forward pass.

    Args:
        strength: weight of the distillation term.
        temperature: softmax temperature of teacher and student.
        replay: exemplars in each step, few beside the new images.
        teacher_bn: statistics of the teacher's batch norm.
    """

    family = "rebalancing"
    memory_use = "required"

    def __init__(
        self,
        strength: float = 1.0,
        temperature: float = 2.0,
        replay: int = 32,
        teacher_bn: TeacherStatistics = "frozen",
    ):
        super().__init__()
        self.strength, self.temperature, self.replay = strength, temperature, replay
        self.teacher = Teacher(teacher_bn)

    def begin_task(self, task, network, trainer) -> None:
        self.teacher.begin_task(task, trainer)

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory.samples, replay=(self.replay,), drop_last=True)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task, exemplars = batch.task, batch.replay[0]
        if task.is_first:
            return cross_entropy(network(batch.images), batch.targets, task.classes)
        images = torch.cat([batch.images, exemplars.images])
        targets = torch.cat([batch.targets, exemplars.targets])
        logits = network(images)
        loss = separated_cross_entropy(logits, targets, len(batch), task.old_classes, task.classes)
        distillation = taskwise_distillation(logits, self.teacher(images), task.old_tasks, self.temperature)
        return loss + self.strength * distillation

    def end_task(self, task, network, trainer) -> None:
        self.teacher.update(network)
