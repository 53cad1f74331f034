"""LUCIR: a cosine classifier, features that keep their direction, and a margin between old and new classes."""

import math

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.classifiers.imprinting import imprint
from cl_ac.heads import GrowingCosine
from cl_ac.losses import cross_entropy, feature_distillation, margin_ranking
from cl_ac.teacher import Teacher, TeacherStatistics


class LUCIR(Approach):
    """Learning a unified classifier incrementally via rebalancing (Hou et al., 2019, eq. 9).

    Rows of old classes stay frozen, as the paper fixes the old embeddings. Published runs leave out the last
    rectification (`ResNet32.last_relu`) and do not clip gradients (`training.clip` 0).

    Args:
        strength: weight of the less-forget term, times √(old classes / new classes).
        ranking: weight of the margin ranking term.
        margin: between the cosine of an old class and those of its rivals.
        rivals: how many new classes with the highest scores are pushed away.
        imprint: whether new rows start at the mean direction of their class's features, as in all of the authors' runs,
            or at random, as in FACIL.
        teacher_bn: the statistics of the teacher's batch norm; `batch` is teacher adaptation.
    """

    family = "rebalancing"
    memory_use = "required"
    trains_old_rows = False

    def __init__(
        self,
        strength: float = 5.0,
        ranking: float = 1.0,
        margin: float = 0.5,
        rivals: int = 2,
        imprint: bool = True,
        teacher_bn: TeacherStatistics = "frozen",
    ):
        super().__init__()
        self.strength, self.ranking, self.margin, self.rivals = strength, ranking, margin, rivals
        self.imprint = imprint
        self.teacher = Teacher(teacher_bn)

    def build_classifier(self, in_features: int) -> GrowingCosine:
        return GrowingCosine(in_features)

    def begin_task(self, task, network, trainer) -> None:
        self.teacher.begin_task(task, trainer)
        if self.imprint and not task.is_first:
            imprint(task, network, trainer)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        hidden = network.hidden(batch.images)
        logits = network.classify(hidden)
        loss = cross_entropy(logits, batch.targets, task.seen_classes)
        if task.is_first:
            return loss
        less_forget = feature_distillation(network.read(hidden), self.teacher(batch.images, ExitNetwork.features))
        strength = self.strength * math.sqrt(task.old_classes.stop / task.num_classes)
        scales = torch.stack([head.classifier.scale for head in network.heads])  # [E]
        cosines = logits / scales[:, None, None]
        ranked = margin_ranking(cosines, batch.targets, task.old_classes, task.classes, self.margin, self.rivals)
        return loss + strength * less_forget + self.ranking * ranked

    def end_task(self, task, network, trainer) -> None:
        self.teacher.update(network)
