"""X-DER: stored logits that follow the network, for classes learned later and for those still to come."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.errors import ConfigurationError
from cl_ac.heads import GrowingClassifier
from cl_ac.heads.prepared import PreparedLinear
from cl_ac.losses import cross_entropy, future_constraint, past_constraint, transplanted


class XDERCE(Approach):
    """X-DER with cross-entropy over classes to come (X-DER-CE; Boschini et al., 2022), and what all its forms share.

    The classifiers have rows for all classes of the run from the start. New images are classified among the new classes
    and those to come, and on two independent draws of exemplars
    `strength · mean (z − stored)² + replay_weight · CE(among old classes)`, the first over all classes of the run. And
    `constraint · max(0, margin + max z_future − max z_own)`, mean over the images where it is not 0, keeps classes to
    come below those of each image's own task; the same of softmax outputs keeps new classes of new images above old
    ones, whose outputs count as constants.

    Stored logits are rewritten by what the network says of an exemplar later. Those of newer classes change when
    it is replayed, the n-th time in a task with probability 1 / n, and at the end of each task; those of older classes
    only when it is stored. What is transplanted so is scaled down to stay below the logit of the exemplar's own class.
    At the end of a task the network answers in evaluation mode and without augmentation. As in DER, new images and
    both draws pass the network one after the other. (The authors' code of this form also fills the memory while the
    first task is learned.)

    Args:
        classes: how many classes the run will have; there may be fewer.
        strength: weight of the distillation term (α).
        replay_weight: weight of the cross-entropy on exemplars (β).
        constraint: weight of the constraints (η).
        margin: of the constraints (m).
        share: the part of its own class's logit that a transplanted one may reach (γ).
        past: whether old classes are constrained too, as in the authors' first code; a later version leaves that off.
    """

    family = "replay"
    memory_use = "required"

    def __init__(
        self,
        classes: int = 100,
        strength: float = 0.1,
        replay_weight: float = 0.5,
        constraint: float = 0.01,
        margin: float = 0.3,
        share: float = 0.85,
        past: bool = True,
    ):
        super().__init__()
        if classes < 2:
            raise ConfigurationError(f"approach.classes is {classes}; it must be at least 2")
        self.most_classes = self.classes = classes
        self.strength, self.replay_weight = strength, replay_weight
        self.constraint, self.margin, self.share, self.past = constraint, margin, share, past
        # The logits of each exemplar [N, E, classes], and how often it was replayed in this task [N].
        self.register_buffer("stored", torch.empty(0))
        self.register_buffer("replays", torch.empty(0))
        self.register_buffer("task_of_class", torch.empty(0, dtype=torch.int64))

    def build_classifier(self, in_features: int) -> GrowingClassifier:
        return PreparedLinear(in_features, self.classes)

    def trained_classes(self, task: Task) -> slice:
        return slice(task.classes.start, self.classes)

    def every_logit(self, network: ExitNetwork, images: Tensor) -> Tensor:
        """Logits of all classes, those to come included: [E, B, classes]."""
        hidden = network.hidden(images)
        heads = zip(network.heads, network.read(hidden), strict=True)
        future = torch.stack([head.classifier.future(features) for head, features in heads])
        return torch.cat([network.classify(hidden), future.float()], -1)

    def begin_task(self, task, network, trainer) -> None:
        self.task_of_class = F.pad(self.task_of_class, (0, task.num_classes), value=task.index)
        self.replays = torch.zeros_like(self.replays)

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory.samples, replay=(None, None))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task, (first, second, *_) = batch.task, batch.replay
        logits, targets = self.every_logit(network, batch.images), batch.targets
        loss = cross_entropy(logits, targets, self.trained_classes(task))
        counts = torch.ones_like(targets, dtype=torch.bool)
        if self.past:
            loss = loss + self.constraint * past_constraint(logits, task.old_classes, task.classes, self.margin)
        if not task.is_first:
            stored = self.stored[first.extras["index"]].transpose(0, 1)
            replayed = [self.every_logit(network, part.images) for part in (first, second)]
            loss = loss + self.strength * (replayed[0] - stored).square().mean((1, 2))
            loss = loss + self.replay_weight * cross_entropy(replayed[1], second.targets, task.old_classes)
            # An exemplar that both draws hold counts once below.
            index = torch.cat([part.extras["index"] for part in (first, second)])
            once = ~(index[:, None] == index).tril(-1).any(1)
            labels = torch.cat([part.targets for part in (first, second)])
            self.rewrite(index, once, torch.cat(replayed, 1).detach(), labels, task)
            logits, targets = torch.cat([logits, *replayed], 1), torch.cat([targets, labels])
            counts = torch.cat([counts, once])
        own = self.task_of_class[targets][:, None] == self.task_of_class
        return loss + self.constraint * future_constraint(logits, own, counts, self.margin)

    @torch.no_grad()
    def rewrite(self, index: Tensor, once: Tensor, logits: Tensor, targets: Tensor, task: Task) -> None:
        """Transplants what the network says of newer classes, logits [E, B, classes], into exemplars at index [B].

        Args:
            once: bool [B]; rows that are left out.
        """
        self.replays.index_add_(0, index, once.to(self.replays.dtype))
        # Drawn on the device, once for all exits.
        chosen = once & (torch.rand(len(index), device=index.device) * self.replays[index] < 1)
        known, start = self.stored[index].transpose(0, 1), task.old_classes.stop
        change = transplanted(logits[..., start:], known, targets, self.share) - known[..., start:]
        change = torch.where(chosen[:, None], change, 0.0)
        self.stored[..., start:].index_add_(0, index, change.transpose(0, 1))

    def choose_exemplars(self, task, network, trainer) -> None:
        read, train, old = partial(self.every_logit, network), task.train, task.old_classes
        new = trainer.predict(network, train, read)
        if not task.is_first:
            new[..., old] = transplanted(new[..., old], new, train.targets.cpu(), self.share)
            known, exemplars = self.stored.transpose(0, 1).cpu(), self.memory.samples
            newer = trainer.predict(network, exemplars, read)[..., old.stop :]
            known[..., old.stop :] = transplanted(newer, known, exemplars.targets.cpu(), self.share)
            new = torch.cat([known, new], 1)
        numbered = {**train.extras, "index": torch.arange(len(self.memory), new.shape[1])}
        super().choose_exemplars(replace(task, train=replace(train, extras=numbered)), network, trainer)
        exemplars = self.memory.samples
        self.stored = new.transpose(0, 1)[exemplars.extras["index"].cpu()].to(self.stored.device)
        self.replays = torch.zeros(len(exemplars), device=self.stored.device)
        index = torch.arange(len(exemplars))
        self.memory.store(replace(exemplars, extras={**exemplars.extras, "index": index}))
