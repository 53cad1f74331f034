"""Learning without Forgetting: the previous network teaches the present one its old classes."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.losses import Distillation, cross_entropy, distillation
from cl_ac.teacher import Teacher, TeacherStatistics


class LwF(Approach):
    """Learning without Forgetting (Li & Hoiem, 2016, eq. 3).

    Args:
        strength: weight of the distillation term.
        distillation: `taskwise` (Ahn et al., 2021), `global` over all old classes at once, or `multilabel` (LwF.MC,
            Rebuffi et al., 2017).
        temperature: softmax temperature of teacher and student.
        teacher_bn: the statistics of the teacher's batch norm; `batch` is teacher adaptation.
        train_old_rows: whether classifier rows of earlier tasks learn, from distillation alone where there are no
            exemplars. None: with exemplars only, as in FACIL and the AC paper. The code of teacher adaptation
            (Szatkowski et al., 2024) always trains them.
    """

    family = "distillation"
    copes_with = frozenset({"repeated classes"})

    def __init__(
        self,
        strength: float = 1.0,
        distillation: Distillation = "taskwise",
        temperature: float = 2.0,
        teacher_bn: TeacherStatistics = "frozen",
        train_old_rows: bool | None = None,
    ):
        super().__init__()
        self.train_old_rows = train_old_rows
        self.strength, self.distillation, self.temperature = strength, distillation, temperature
        self.teacher = Teacher(teacher_bn)

    @property
    def trains_old_rows(self) -> bool:
        return super().trains_old_rows if self.train_old_rows is None else self.train_old_rows

    def begin_task(self, task, network, trainer) -> None:
        self.teacher.begin_task(task, trainer)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        logits = network(batch.images)
        loss = cross_entropy(logits, batch.targets, self.trained_classes(task))
        if task.is_first:
            return loss
        old_logits = self.teacher(batch.images)
        kept = distillation(self.distillation, logits, old_logits, task.old_tasks, self.temperature)
        return loss + self.strength * kept

    def end_task(self, task, network, trainer) -> None:
        self.teacher.update(network)
