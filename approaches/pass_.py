"""PASS: old classes are replayed as noisy prototypes, and rotated images are classes of their own."""

from functools import partial

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.classifiers.prototypes import Prototypes, reduced, reduced_sizes
from cl_ac.errors import ConfigurationError
from cl_ac.heads import ExitLinears
from cl_ac.losses import cross_entropy, feature_distances
from cl_ac.teacher import Teacher, TeacherStatistics


class PASS(Approach):
    """Prototype augmentation and self-supervision (Zhu et al., 2021, CVPR).

    `CE(z / τ; class and rotation) + prototypes · CE(W (p_c + r ε) / τ; c) + distillation · ‖f(x) − f_old(x)‖`, over
    images in all four rotations, each of which is a class beside the upright one. The norm is of the whole batch, as in
    the authors' code. The radius r is the mean deviation of features within the classes of the first task. At
    inference only the rows of upright images answer.

    An AC's features are all that its head reads. Prototypes are taken without augmentation; the authors' code takes
    them from augmented images.

    Args:
        prototypes: weight of the classification of prototypes.
        distillation: weight of the distillation of features.
        temperature: τ, by which logits are divided, also at inference: confidences are those that were trained.
        replay: prototypes in each step; None takes as many as new images.
        teacher_bn: statistics of the teacher's batch norm.
    """

    family = "prototypes"
    memory_use = "none"
    needs_images = "turns images"
    trains_old_rows = True

    def __init__(
        self,
        prototypes: float = 10.0,
        distillation: float = 10.0,
        temperature: float = 0.1,
        replay: int | None = None,
        teacher_bn: TeacherStatistics = "frozen",
    ):
        super().__init__()
        self.prototype_weight, self.distillation = prototypes, distillation
        self.temperature, self.replay = temperature, replay
        self.teacher, self.prototypes = Teacher(teacher_bn), Prototypes()
        # Three rows for each class, for its images turned by 90, 180 and 270 degrees.
        self.rotations = ExitLinears()

    def begin_task(self, task, network, trainer) -> None:
        _, height, width = network.backbone.image_shape
        if height != width:
            raise ConfigurationError(f"PASS turns images by 90 degrees, but they are {height} × {width}, not square")
        self.teacher.begin_task(task, trainer)
        stream = partial(trainer.generator, "rotations", task.index)
        if task.is_first:
            self.rotations.build(reduced_sizes(network), 3 * task.num_classes, stream, trainer.device)
        else:
            self.rotations.grow(3 * task.num_classes, stream)

    def learns(self, network: ExitNetwork):
        return [*network.parameters(), *self.rotations.learning(network.exits.weights_of_heads)]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        images = torch.cat([torch.rot90(batch.images, turns, (2, 3)) for turns in range(4)])
        classes = batch.task.classes_seen
        turned = [classes + 3 * batch.targets + turns for turns in range(3)]
        features = reduced(network, images)
        loss = cross_entropy(self.logits(network, features), torch.cat([batch.targets, *turned]))
        if batch.task.is_first:
            return loss
        kept = feature_distances(features, self.teacher(images, reduced)).norm(dim=1)
        chosen = self.prototypes.draw(self.replay or len(batch), batch)
        of_first = (self.prototypes.targets < batch.task.sizes[0]).float()
        radius = ((self.prototypes.variances * of_first).sum(1) / of_first.sum()).sqrt()
        noisy = self.prototypes.spherical(chosen, radius, batch)
        replayed = cross_entropy(self.logits(network, noisy), self.prototypes.targets[chosen])
        return loss + self.prototype_weight * replayed + self.distillation * kept

    def logits(self, network: ExitNetwork, features: list[Tensor]) -> Tensor:
        """Of upright classes, then of turned ones [E, B, 4 C], divided by τ."""
        turned = self.rotations([value.flatten(1) for value in features]).float()
        return torch.cat([network.answer(features), turned], -1) / self.temperature

    def correct(self, logits: Tensor) -> Tensor:
        return logits / self.temperature

    def end_task(self, task, network, trainer) -> None:
        self.prototypes.add(task, network, trainer)
        self.teacher.update(network)
