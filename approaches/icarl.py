"""iCaRL: exemplars, distillation of each old class on its own, and nearest class means."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.losses import cross_entropy, multilabel_distillation
from cl_ac.teacher import Teacher, TeacherStatistics


class ICaRL(Approach):
    """Incremental classifier and representation learning (Rebuffi et al., 2017).

    Training follows FACIL and the AC paper's code: softmax cross-entropy over all classes (the original trains
    sigmoids) and `strength` times the binary cross-entropy to the teacher's sigmoids, summed over old classes. At
    inference the nearest mean of exemplars of each exit answers, for new classes too (alg. 1); with the classifier
    `NearestMean` their means are taken over all training data. Exemplars are meant to be chosen by herding.

    Args:
        strength: weight of the distillation term (v1 of the AC paper: 0.5, with ACs in 5 tasks 0.25).
        teacher_bn: batch statistics that the teacher uses.
    """

    family = "rebalancing"
    memory_use = "required"
    copes_with = frozenset({"repeated classes"})

    def __init__(self, strength: float = 1.0, teacher_bn: TeacherStatistics = "frozen"):
        super().__init__()
        self.strength = strength
        self.teacher = Teacher(teacher_bn)

    def inference_classifier(self) -> Classifier:
        return NearestMean(newest="exemplars")

    def begin_task(self, task, network, trainer) -> None:
        self.teacher.begin_task(task, trainer)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        logits = network(batch.images)
        loss = cross_entropy(logits, batch.targets, batch.task.seen_classes)
        if batch.task.is_first:
            return loss
        return loss + self.strength * multilabel_distillation(logits, self.teacher(batch.images))

    def end_task(self, task, network, trainer) -> None:
        self.teacher.update(network)
