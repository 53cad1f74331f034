"""IL2A: pairs of classes are classes of their own, and prototypes stand for whole Gaussian classes."""

from functools import partial

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.classifiers.prototypes import Prototypes, linear_logits, reduced, reduced_sizes
from cl_ac.heads import ExitLinears
from cl_ac.losses import cross_entropy, cross_entropy_per_sample, feature_distances
from cl_ac.teacher import Teacher, TeacherStatistics


class IL2A(Approach):
    """Class-incremental learning via dual augmentation (Zhu et al., 2021, NeurIPS).

    `CE(z / τ; class or pair) + prototypes · CE((W p_c + ratio / 2 · d) / τ; c) + distillation · ‖f(x) − f_old(x)‖`.
    Class augmentation mixes images of two classes, half and half or nearly so, into images of a class for that pair,
    whose row is dropped after the task. Semantic augmentation takes prototypes with the covariance of their class,
    `d_j = (w_j − w_c)ᵀ Σ_c (w_j − w_c)`, which bounds the loss of infinitely many samples. The norm is of the whole
    batch, as in the authors' code.

    Mixtures of images of the same class weigh nothing, but batch norm sees them; the authors leave them out. Heads of a
    cascade have d alone, without what they read of the AC before. Prototypes are taken without augmentation.

    Args:
        prototypes: weight of the classification of prototypes.
        distillation: weight of the distillation of features.
        temperature: τ, by which logits are divided, also at inference: confidences are those that were trained.
        ratio: how far prototypes are augmented.
        mixes: mixtures of each image.
        replay: prototypes in each step; None takes as many as new images.
        rank: leading directions of each class's covariance that are kept, at every exit; all where an exit reads no
            more features than that. The authors keep all.
        teacher_bn: statistics of the teacher's batch norm.
    """

    family = "prototypes"
    memory_use = "none"
    needs_images = "mixes images"
    trains_old_rows = True

    def __init__(
        self,
        prototypes: float = 10.0,
        distillation: float = 10.0,
        temperature: float = 0.1,
        ratio: float = 2.5,
        mixes: int = 4,
        replay: int | None = None,
        rank: int = 64,
        teacher_bn: TeacherStatistics = "frozen",
    ):
        super().__init__()
        self.prototype_weight, self.distillation, self.temperature = prototypes, distillation, temperature
        self.ratio, self.mixes, self.replay = ratio, mixes, replay
        self.teacher, self.prototypes = Teacher(teacher_bn), Prototypes(rank)
        # A row for each pair of the task's classes.
        self.pairs = ExitLinears()

    def begin_task(self, task, network, trainer) -> None:
        self.teacher.begin_task(task, trainer)
        count = task.num_classes * (task.num_classes - 1) // 2
        stream = partial(trainer.generator, "pairs of classes", task.index)
        self.pairs.build(reduced_sizes(network), count, stream, trainer.device)

    def learns(self, network: ExitNetwork):
        return [*network.parameters(), *self.pairs.learning(network.exits.weights_of_heads)]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        images, targets, weights = self.mixed(batch)
        features = reduced(network, images)
        rows = [network.answer(features), self.pairs([value.flatten(1) for value in features]).float()]
        errors = cross_entropy_per_sample(torch.cat(rows, -1) / self.temperature, targets)
        loss = (errors * weights).sum(1) / weights.sum()
        if batch.task.is_first:
            return loss
        kept = (feature_distances(features, self.teacher(images, reduced)) * weights).norm(dim=1)
        chosen = self.prototypes.draw(self.replay or len(batch), batch)
        logits = network.answer(self.prototypes.at(chosen)) + self.ratio / 2 * self.spread(network)[:, chosen]
        replayed = cross_entropy(logits / self.temperature, self.prototypes.targets[chosen])
        return loss + self.prototype_weight * replayed + self.distillation * kept

    def mixed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The images with their mixtures, their classes or pairs, and what they weigh: 0 for pairs of one class."""
        images, targets, weights = [batch.images], [batch.targets], [torch.ones_like(batch.images[:, 0, 0, 0])]
        device, first = batch.targets.device, batch.task.classes.start
        for mix in range(self.mixes):
            stream = batch.stream(2, mix)
            other = torch.randperm(len(batch), generator=stream).to(device, non_blocking=True)
            share = shares(len(batch), stream).to(device, non_blocking=True)[:, None, None, None]
            images.append(torch.lerp(batch.images[other], batch.images, share))
            pair = pair_index(batch.targets - first, batch.targets[other] - first, batch.task.num_classes)
            differ = batch.targets != batch.targets[other]
            targets.append(torch.where(differ, batch.task.classes_seen + pair, batch.targets))
            weights.append(differ.to(images[0].dtype))
        return torch.cat(images), torch.cat(targets), torch.cat(weights)

    def spread(self, network: ExitNetwork) -> Tensor:
        """d of each prototype K and class: the variance of `z_j − z_c` over its class c, [E, K, C]."""
        directions = self.prototypes.directions
        rows = linear_logits(network, [value.flatten(0, 1) for value in directions])
        rows = rows - linear_logits(network, [torch.zeros_like(value[0, :1]) for value in directions])
        rows = rows.unflatten(1, (len(self.prototypes), -1))  # [E, K, R, C]
        own = rows.gather(-1, self.prototypes.targets[:, None, None].expand(*rows.shape[:3], 1))
        return (rows - own).square().sum(2)

    def correct(self, logits: Tensor) -> Tensor:
        return logits / self.temperature

    def end_task(self, task, network, trainer) -> None:
        self.prototypes.add(task, network, trainer)
        self.teacher.update(network)


def shares(count: int, stream: torch.Generator) -> Tensor:
    """Shares [count] of the first image in mixtures: of Beta(20, 20), but 1/2 where further than 0.1 from it.

    The median of 39 uniform numbers has that distribution.
    """
    drawn = torch.rand(count, 39, generator=stream).median(1).values
    return torch.where((drawn - 0.5).abs() > 0.1, 0.5, drawn)


def pair_index(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """The number of the unordered pair of two different classes, from 0, row by row of the upper triangle."""
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return low * (2 * classes - low - 1) // 2 + high - low - 1
