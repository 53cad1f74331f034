"""EFC: features may move where old answers do not change, and prototypes follow the drift of features."""

from typing import cast

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.classifiers.prototypes import Prototypes, linear_logits, reduced
from cl_ac.importance.features import feature_importance, nearness
from cl_ac.losses import cross_entropy, elastic_distance, sample_mean
from cl_ac.network import batch_norms
from cl_ac.teacher import Teacher
from cl_ac.training import ParameterGroup


class EFC(Approach):
    """Elastic feature consolidation (Magistri et al., 2024, ICLR) without the rotations of its first task.

    `CE(new images; new classes) + Δᵀ (strength · E + damping · I) Δ + CE(prototypes and new images; all classes)`, Δ
    how features of new images have moved. The empirical feature matrix `E = mean_x Σ_c p_c (W_c − W̄)(W_c − W̄)ᵀ` with
    `W̄ = Σ_k p_k W_k`, of every exit's own head, equals `Wᵀ M W` with `M = mean_x (diag p − p pᵀ)`. So only M
    [classes, classes] is kept, and `Δᵀ E Δ` is computed from how the old head's logits move. Heads of a cascade count
    alone, without what they read of the AC before.

    Prototypes are Gaussian. After each task their means move by the mean drift of the task's images, weighed by
    `exp(−d / (2 · sigma²))`, d the distance to the prototype in the metric of E, scaled to [0, 1] over all of them.
    On average the last term sees each class equally often; its new images are a draw of their own (the authors take
    those of the batch before). Batch norm stays as the first task left it.

    Args:
        strength: weight of the moves that E measures.
        damping: weight of all moves.
        replay: prototypes and new images in the last term.
        sigma: of the weights that drift is averaged with.
        later_lr: learning rate after the first task, as a share of the run's: the authors' 1e-4 of 1e-3, with Adam.
        rank: leading directions of each class's covariance that are kept, at every exit; all where an exit reads no
            more features than that. The authors keep all.
    """

    family = "prototypes"
    memory_use = "none"
    trains_old_rows = True

    def __init__(
        self,
        strength: float = 10.0,
        damping: float = 0.1,
        replay: int = 64,
        sigma: float = 0.2,
        later_lr: float = 0.1,
        rank: int = 64,
    ):
        super().__init__()
        self.strength, self.damping, self.replay = strength, damping, replay
        self.sigma, self.later_lr = sigma, later_lr
        self.teacher, self.prototypes = Teacher(), Prototypes(rank)
        # M of each exit: [E, C, C].
        self.register_buffer("importance", torch.empty(0, 0, 0))

    def training_set(self, task: Task) -> TrainingSet:
        if task.is_first:
            return TrainingSet(task.train, task)
        new = max(round(self.replay * task.num_classes / task.classes_seen), 1)
        return TrainingSet(task.train, task, task.train, replay=(new,))

    def learns(self, network: ExitNetwork):
        return [ParameterGroup(network.parameters(), 1.0 if len(network.sizes) == 1 else self.later_lr)]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        if task.is_first:
            return cross_entropy(network(batch.images), batch.targets)
        for layer in batch_norms(network):
            layer.eval()
        again, count = batch.replay[0], len(batch)
        features = reduced(network, torch.cat([batch.images, again.images]))
        new, known = [value[:count] for value in features], self.teacher(batch.images, reduced)
        loss = cross_entropy(network.answer(new), batch.targets, task.classes)
        chosen = self.prototypes.draw(max(self.replay - len(again), 0), batch)
        drawn = self.prototypes.gaussian(chosen, 1e-5, batch)
        mixed = [torch.cat([old, value[count:]]) for old, value in zip(drawn, features, strict=True)]
        targets = torch.cat([self.prototypes.targets[chosen], again.targets])
        return loss + self.consolidation(new, known) + cross_entropy(network.answer(mixed), targets)

    def consolidation(self, features: list[Tensor], old_features: list[Tensor]) -> Tensor:
        """What it costs that features have moved from the old ones, both E tensors [B, ...]: [E]."""
        head = cast(ExitNetwork, self.teacher.network)
        moved = linear_logits(head, features) - linear_logits(head, old_features)
        pairs = zip(features, old_features, strict=True)
        squares = [(new - old).float().square().flatten(1).sum(1) for new, old in pairs]
        damped = self.damping * sample_mean(torch.stack(squares))
        return self.strength * elastic_distance(moved, self.importance) + damped

    def end_task(self, task, network, trainer) -> None:
        if not task.is_first:
            self.follow(task, network, trainer)
        samples = task.train.without_extras()
        logits = trainer.predict(network, samples, lambda images: linear_logits(network, reduced(network, images)))
        self.importance = feature_importance(logits).to(trainer.device)
        self.prototypes.add(task, network, trainer)
        self.teacher.update(network)

    @torch.no_grad()
    def follow(self, task: Task, network: ExitNetwork, trainer) -> None:
        """Moves the means of prototypes as features near them have moved in `task`."""
        samples, old = task.train.without_extras(), cast(ExitNetwork, self.teacher.network)
        logits = trainer.predict(old, samples, lambda images: linear_logits(old, reduced(old, images)))
        weights = nearness(logits, linear_logits(old, self.prototypes.means).cpu(), self.importance.cpu(), self.sigma)
        drifts, start = [torch.zeros_like(means) for means in self.prototypes.means], 0
        for images in trainer.loader(samples).in_order(256):
            with trainer.autocast():
                pairs = list(zip(reduced(network, images), reduced(old, images), strict=True))
            here = weights[:, :, start : start + len(images)].to(trainer.device)
            start += len(images)
            for drift, weight, (now, before) in zip(drifts, here, pairs, strict=True):
                drift += torch.einsum("cb,b...->c...", weight, (now - before).float())
        self.prototypes.move(drifts)
