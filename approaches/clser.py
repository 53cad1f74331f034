"""CLS-ER: two slow copies of the network remember what it knew, one for long and one for short."""

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy, squared_error
from cl_ac.teacher import Teacher


class CLSER(Approach):
    """Complementary learning system experience replay (Arani et al., 2022, CLS-ER): the stable copy answers.

    `CE(new images and exemplars) + strength · MSE(logits(exemplars), logits of the copy that knows them better)`: of
    each exemplar, and at each exit, that is the stable copy where it gives the true class more probability than the
    plastic one. After each step a copy is moved with a probability of its own: `copy ← a · copy + (1 − a) · network`,
    statistics of batch norm included, with `a = min(1 − 1 / (n + 1), decay)` after n moves, so that the first takes the
    network as it is.

    (Published code counts steps for n, so that copies which move seldom keep much of their random initial weights; its
    copies normalise with the statistics of the batch, and never learn those of new images; and it passes the exemplars
    a second time, on their own, for the distance.)

    Args:
        strength: weight of the distance (λ; the authors': 0.15 for CIFAR-10, 0.1 for TinyImageNet).
        plastic_rate: probability that a step moves the plastic copy.
        stable_rate: the same of the stable copy.
        plastic_decay: largest share that the plastic copy keeps of itself in a move. Runs of few steps want less.
        stable_decay: the same of the stable copy.
    """

    family = "replay"
    memory_use = "required"
    moves: Tensor
    copes_with = frozenset({"repeated classes"})

    def __init__(
        self,
        strength: float = 0.15,
        plastic_rate: float = 0.3,
        stable_rate: float = 0.1,
        plastic_decay: float = 0.999,
        stable_decay: float = 0.999,
    ):
        super().__init__()
        for name, value in {"plastic_rate": plastic_rate, "stable_rate": stable_rate}.items():
            if not 0 < value <= 1:
                raise ConfigurationError(f"approach.{name} is {value}; it must be above 0 and at most 1")
        for name, value in {"plastic_decay": plastic_decay, "stable_decay": stable_decay}.items():
            if not 0 <= value < 1:
                raise ConfigurationError(f"approach.{name} is {value}; it must be at least 0 and below 1")
        self.strength, self.rates, self.decays = strength, (plastic_rate, stable_rate), (plastic_decay, stable_decay)
        self.plastic, self.stable = Teacher(), Teacher()
        self.register_buffer("moves", torch.zeros(2))
        self.moved = [False, False]

    def begin_task(self, task, network, trainer) -> None:
        for copy in (self.plastic, self.stable):
            if task.is_first:
                copy.update(network)
            else:
                # Rows of a task have one stream of initial values: the copy grows the rows that `network` has grown.
                copy.network.grow(task.num_classes, trainer.seed)
                copy.network.requires_grad_(False)

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory.samples, replay=(None,))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        draws = torch.rand(2, generator=batch.stream(0)).tolist()
        self.moved = [draw < rate for draw, rate in zip(draws, self.rates, strict=True)]
        exemplars, new = batch.replay[0], len(batch)
        logits = network(torch.cat([batch.images, exemplars.images]))
        targets = torch.cat([batch.targets, exemplars.targets])
        loss = cross_entropy(logits, targets, batch.task.seen_classes)
        if batch.task.is_first:
            return loss
        plastic, stable = self.plastic(exemplars.images), self.stable(exemplars.images)
        return loss + self.strength * squared_error(logits[:, new:], better(stable, plastic, exemplars.targets))

    def end_step(self, network: ExitNetwork) -> None:
        for index, copy in enumerate((self.plastic, self.stable)):
            if self.moved[index]:
                kept = (1 - 1 / (self.moves[index] + 1)).clamp(max=self.decays[index])
                follow(copy, network, 1 - kept)
                self.moves[index] += 1

    def inference_network(self, network: ExitNetwork) -> ExitNetwork:
        return network if self.stable.network is None else self.stable.network


def better(first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
    """Of logits [E, B, C] twice, for each exit and sample those that give its target [B] more probability."""
    index = targets.expand(len(first), -1)[..., None]
    confidences = [logits.log_softmax(-1).gather(-1, index) for logits in (first, second)]
    return torch.where(confidences[0] > confidences[1], first, second)


@torch.no_grad()
def follow(copy: Teacher, network: ExitNetwork, share: Tensor) -> None:
    """Moves a copy by a share [] of the way to the network; whole numbers, such as counts, are taken over."""
    values = network.state_dict()
    for name, value in copy.network.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.lerp_(values[name], share)
        elif isinstance(value, Tensor):
            value.copy_(values[name])
