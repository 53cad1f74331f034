"""Auxiliary network continual learning: one teacher for the old classes, one for the new."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, TrainingSet
from cl_ac.data.copying import copied
from cl_ac.losses import Distillation, auxiliary_distillation, cross_entropy, distillation
from cl_ac.teacher import Teacher, TeacherStatistics
from cl_ac.training import Fit


class ANCL(Approach):
    """Auxiliary network continual learning (Kim et al., 2023) on LwF, also called A-LwF.

    Before each task but the first, a copy of the network is trained on the new data alone. Frozen, it teaches the
    network the new classes (plasticity) while the previous network teaches the old ones (stability).

    Args:
        strength: weight of the distillation from the previous network.
        auxiliary_strength: weight of the distillation from the auxiliary network.
        distillation: from the previous network: `taskwise`, `global` or `multilabel`.
        temperature: softmax temperature of teachers and student.
        teacher_bn: the statistics of the previous network's batch norm; the auxiliary network's stay frozen.
        auxiliary_momentum: of SGD on the auxiliary network, which else is trained as the run is.
        auxiliary_weight_decay: of the auxiliary network.
        auxiliary_clip: largest norm of its gradient; 0 does not clip.
    """

    family = "distillation"

    def __init__(
        self,
        strength: float = 1.0,
        auxiliary_strength: float = 1.0,
        distillation: Distillation = "taskwise",
        temperature: float = 2.0,
        teacher_bn: TeacherStatistics = "frozen",
        auxiliary_momentum: float = 0.9,
        auxiliary_weight_decay: float = 5e-4,
        auxiliary_clip: float = 1.0,
    ):
        super().__init__()
        self.strength, self.auxiliary_strength = strength, auxiliary_strength
        self.distillation, self.temperature = distillation, temperature
        self.auxiliary_training = {
            "momentum": auxiliary_momentum,
            "weight_decay": auxiliary_weight_decay,
            "clip": auxiliary_clip,
        }
        self.teacher = Teacher(teacher_bn)
        self.auxiliary = Teacher()

    def begin_task(self, task, network, trainer) -> None:
        if task.is_first:
            return
        self.teacher.begin_task(task, trainer)
        auxiliary = copied(network)
        auxiliary.train_old_rows(False)
        data, training = TrainingSet(task.train, task), trainer.with_training(**self.auxiliary_training)
        trainer.fit(Fit(auxiliary, self.new_class_loss, data, training, stage="auxiliary"))
        self.auxiliary.update(auxiliary)

    def new_class_loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        """What the auxiliary network learns: [E]."""
        return cross_entropy(network(batch.images), batch.targets, batch.task.classes)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task, images = batch.task, batch.images
        logits = network(images)
        loss = cross_entropy(logits, batch.targets, self.trained_classes(task))
        if task.is_first:
            return loss
        old = distillation(self.distillation, logits, self.teacher(images), task.old_tasks, self.temperature)
        new = auxiliary_distillation(logits, self.auxiliary(images), task.classes, self.temperature)
        return loss + self.strength * old + self.auxiliary_strength * new

    def end_task(self, task, network, trainer) -> None:
        self.teacher.update(network)
