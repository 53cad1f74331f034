"""IL2M: scores of old classes are rectified by how they were when the classes were new."""

from typing import Literal

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task
from cl_ac.data.samples import Samples
from cl_ac.losses import cross_entropy


class IL2M(Approach):
    """Incremental learning with dual memory (Belouadah & Popescu, 2019): fine-tuning with exemplars, rectified.

    Where a new class has the highest score z, each old class c gets
    `z_c · (initial(c) / current(c)) · (confidence(t) / confidence(s))`: the mean score of its own images when it was
    learned and of its exemplars now, and the mean highest score of new images in the present task t and in the task s
    that brought c. Where an old class wins, nothing changes. Each exit has statistics of its own, taken after training,
    in evaluation mode and without augmentation. While a task is learned, answers stay as they are.

    Args:
        scores: `logits`, as in all published code, though a factor above 1 makes a negative logit lower still; or
            `probabilities` of the softmax.
    """

    family = "rebalancing"
    memory_use = "required"

    def __init__(self, scores: Literal["logits", "probabilities"] = "logits"):
        super().__init__()
        self.scores = scores
        # Of each exit and class: its mean score when new, and the confidence of the task that brought it.
        self.register_buffer("initial", torch.empty(0, 0))
        self.register_buffer("confidence", torch.empty(0, 0))
        # What scores of old classes are multiplied by: [E, C_old].
        self.register_buffer("factor", torch.empty(0, 0))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        return cross_entropy(network(batch.images), batch.targets, batch.task.seen_classes)

    def choose_exemplars(self, task, network, trainer) -> None:
        # Before the share of old classes shrinks: their means are over all exemplars that took part in training.
        self.measure(task, network, trainer)
        super().choose_exemplars(task, network, trainer)

    def measure(self, task: Task, network: ExitNetwork, trainer) -> None:
        """Takes the statistics of the new classes, and the factors of the old ones."""
        device, old = self.factor.device, task.old_classes.stop
        scores, initial, _ = self.class_scores(task.train, task, network, trainer)
        confidence = scores.amax(-1).mean(1, keepdim=True).to(device)  # [E, 1]
        if task.is_first:
            self.initial, self.confidence = (confidence.new_empty(len(network), 0) for _ in range(2))
        _, current, counts = self.class_scores(self.memory.samples, task, network, trainer)
        rectified = self.initial / current[:, :old] * (confidence / self.confidence)
        # Without an exemplar, a class has no mean now.
        self.factor = torch.where(counts[:old] > 0, rectified, 1.0)
        self.initial = torch.cat([self.initial, initial[:, old:]], 1)
        self.confidence = torch.cat([self.confidence, confidence.expand(-1, task.num_classes)], 1)

    def class_scores(
        self, samples: Samples, task: Task, network: ExitNetwork, trainer
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The scores of samples [E, N, C], the mean score of each class's own [E, C], and how many it has [C]."""
        device, targets, classes = self.factor.device, samples.targets.cpu(), task.classes_seen
        if not len(samples):
            nothing = torch.zeros(len(network), classes, device=device)
            return nothing[:, None], nothing, nothing[0]
        scores = trainer.predict(network, samples)
        scores = scores if self.scores == "logits" else scores.softmax(-1)
        own = scores.gather(-1, targets.expand(len(scores), -1)[..., None])[..., 0]
        counts = targets.bincount(minlength=classes)
        sums = torch.zeros(len(scores), classes).index_add(1, targets, own)
        return scores, (sums / counts.clamp(min=1)).to(device), counts.to(device)

    def correct(self, logits: Tensor) -> Tensor:
        classes, old = logits.shape[-1], self.factor.shape[1]
        if classes <= old or classes > self.initial.shape[1]:
            return logits
        old_logits, new_logits = logits[..., :old], logits[..., old:]
        factor = self.factor[:, None].to(logits.dtype)
        # The logarithm of probabilities, up to a constant of each sample, times the factor.
        rectified = factor * old_logits if self.scores == "logits" else old_logits + factor.log()
        new_wins = logits.argmax(-1, keepdim=True) >= old
        return torch.cat([torch.where(new_wins, rectified, old_logits), new_logits], -1)
