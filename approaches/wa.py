"""WA: after each task the rows of new classes are shortened to the length of old ones."""

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.heads import align
from cl_ac.losses import cross_entropy, global_distillation
from cl_ac.teacher import Teacher, TeacherStatistics


class WA(Approach):
    """Maintaining discrimination and fairness: weight aligning (Zhao et al., 2020).

    Trained is `(1 − λ) CE + λ KD` with λ the share of old classes, KD over all old classes at once. After each task but
    the first, every exit's new rows are multiplied by γ = mean length of old rows / mean length of new rows; biases
    stay. The aligned network is the next teacher and the next start. What a cascade reads of the exit before is not
    aligned.

    Args:
        temperature: softmax temperature of teacher and student.
        clip: whether rows are kept from going below 0 after every step, which makes their lengths comparable, as in the
            paper; several public versions leave it out.
        lengthen: whether γ may be above 1, as the paper's formula allows. New rows that are shorter than old ones, as
            those of shallow ACs can be, are then lengthened, which makes new classes more likely still; False leaves
            such rows as they are.
        teacher_bn: statistics of the teacher's batch norm.
    """

    family = "rebalancing"
    memory_use = "required"

    def __init__(
        self,
        temperature: float = 2.0,
        clip: bool = True,
        lengthen: bool = True,
        teacher_bn: TeacherStatistics = "frozen",
    ):
        super().__init__()
        self.temperature, self.clip, self.lengthen = temperature, clip, lengthen
        self.teacher = Teacher(teacher_bn)

    def begin_task(self, task, network, trainer) -> None:
        self.teacher.begin_task(task, trainer)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        logits = network(batch.images)
        loss = cross_entropy(logits, batch.targets, task.seen_classes)
        if task.is_first:
            return loss
        distillation = global_distillation(logits, self.teacher(batch.images), self.temperature)
        return torch.lerp(loss, distillation, task.old_classes.stop / task.classes_seen)

    @torch.no_grad()
    def end_step(self, network: ExitNetwork) -> None:
        if not self.clip:
            return
        for head in network.heads:
            for rows in (head.classifier.old_weight, head.classifier.new_weight):
                rows.clamp_(min=0)

    def end_task(self, task, network, trainer) -> None:
        if not task.is_first:
            for head in network.heads:
                align(head.classifier, self.lengthen)
        self.teacher.update(network)
