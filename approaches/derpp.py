"""Dark experience replay: exemplars are stored with the logits that the network gave them."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.losses import cross_entropy, masked_squared_error


class DER(Approach):
    """Dark experience replay (Buzzega et al., 2020, eq. 5): `CE(new) + α MSE(logits(exemplars), stored logits)`.

    As in the AC paper, logits are stored at the end of the task in which an image becomes an exemplar, in evaluation
    mode and without augmentation. (The original stores them during training, as the network gave them in passing; so
    does a memory with the selection `live`.)
    Classes unseen at storage have no stored logit and do not count. So nothing keeps exemplars from being taken for a
    new class, as it does in the original, whose network has the outputs of all tasks from the start: where the task is
    not known at test time, use DERpp.

    New images and exemplars pass the network one after the other, as in both codes: batch normalisation takes the
    statistics of each batch alone. The last, smaller batch of an epoch is trained on too; the AC paper's code drops it.

    Args:
        strength: weight of the distillation term (α).
        joint: whether new images and exemplars pass the network together, as in ER, so that batch normalisation sees
            both, as it will when it is asked for all classes.
    """

    family = "replay"
    memory_use = "required"
    copes_with = frozenset({"repeated classes", "live memory", "no boundaries"})
    draws = 1

    def __init__(self, strength: float = 0.5, joint: bool = False):
        super().__init__()
        self.strength, self.joint = strength, joint
        self.passing = torch.empty(0)  # the logits of the newest batch of new images [E, B, C]

    def begin_task(self, task, network, trainer) -> None:
        exemplars = self.memory.samples
        if len(exemplars):
            logits = F.pad(exemplars.extras["logits"], (0, task.classes_seen - exemplars.extras["logits"].shape[-1]))
            self.memory.store(replace(exemplars, extras={**exemplars.extras, "logits": logits}))

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory, replay=(None,) * self.draws)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        return self.terms(self.answers(network, batch), batch)

    def answers(self, network: ExitNetwork, batch: Batch) -> list[Tensor]:
        """Logits [E, B, C] of the new images and of each draw of exemplars, of which the first task has none."""
        parts = [batch.images, *(draw.images for draw in batch.replay if len(draw))]
        if self.joint:
            return list(network(torch.cat(parts)).split([len(part) for part in parts], dim=1))
        return [network(part) for part in parts]

    def terms(self, answers: list[Tensor], batch: Batch) -> Tensor:
        """The loss of each exit, given what `answers` found."""
        self.passing = answers[0].detach()
        loss = cross_entropy(answers[0], batch.targets, batch.task.seen_classes)
        if len(answers) == 1:
            return loss
        logits, exemplars = answers[1], batch.replay[0]
        stored = exemplars.extras["logits"].transpose(0, 1)
        stored = F.pad(stored, (0, logits.shape[-1] - stored.shape[-1]))
        classes = torch.arange(logits.shape[-1], device=logits.device)
        known = (classes < exemplars.extras["classes_known"][:, None]).float()
        return loss + self.strength * masked_squared_error(logits, stored, known)

    def stored_with(self, batch: Batch) -> dict[str, Tensor]:
        return self._answers(self.passing)

    def choose_exemplars(self, task, network, trainer) -> None:
        extras = {**task.train.extras, **self._answers(trainer.predict(network, task.train))}
        super().choose_exemplars(replace(task, train=replace(task.train, extras=extras)), network, trainer)

    def _answers(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits [E, N, C] as they are stored, by image, and how many classes they know."""
        known = torch.full((logits.shape[1],), logits.shape[-1], device=logits.device)
        return {"logits": logits.transpose(0, 1), "classes_known": known}


class DERpp(DER):
    """DER++ (Buzzega et al., 2020, eq. 6): DER with cross-entropy on a second, independent draw of exemplars.

    Args:
        strength: weight of the distillation term (α).
        replay_weight: weight of the cross-entropy on exemplars (β).
        joint: whether all pass the network together.
    """

    family = "replay"

    draws = 2

    def __init__(self, strength: float = 0.5, replay_weight: float = 0.5, joint: bool = False):
        super().__init__(strength, joint)
        self.replay_weight = replay_weight

    def terms(self, answers: list[Tensor], batch: Batch) -> Tensor:
        loss = super().terms(answers, batch)
        if len(answers) == 1:
            return loss
        return loss + self.replay_weight * cross_entropy(answers[2], batch.replay[1].targets, batch.task.seen_classes)
