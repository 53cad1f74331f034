"""FOSTER: a second network is boosted on top of the old one, then both are compressed into one."""

from functools import partial
from typing import cast

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.data.copying import copied
from cl_ac.data.samples import concatenate
from cl_ac.errors import ConfigurationError
from cl_ac.heads import ExitLinears, linear_map
from cl_ac.losses import balanced_distillation, cross_entropy, effective_number_weights, global_distillation
from cl_ac.teacher import Teacher
from cl_ac.training import Fit, Trainer


class FOSTER(Approach):
    """Feature boosting and compression (Wang et al., 2022).

    Boosting: the old network is frozen, and a copy of it learns what it lacks. A joint classifier for each exit reads
    the features of both, and begins with the old one's weights. Its logits are divided by weights of the classes, which
    are larger for old ones, before the cross-entropy (logits alignment); it is also distilled from the old network, and
    the copy's own heads learn all classes too. Compression: one network, which begins as the old one, is distilled from
    the joint classifier with targets that are balanced by the classes. It answers and goes on to the next task;
    published tables also have the two networks before compression (FOSTER-B4). Weights of classes follow the effective
    number of their n samples, `(1 − β) / (1 − βⁿ)`, with a mean of 1.

    While a task is trained, the copy's own heads answer.

    Args:
        boosting_beta: β of the alignment; nearer to 1 it corrects more for few samples.
        compression_beta: β of the balanced targets.
        strength: weight of the distillation from the old network.
        temperature: softmax temperature of both distillations.
        compression_epochs: epochs of the compression, without weight decay, at a rate that falls to 0 by a cosine.
        compression_lr: its rate, as a share of the run's.
    """

    family = "expansion"
    memory_use = "required"

    def __init__(
        self,
        boosting_beta: float = 0.96,
        compression_beta: float = 0.97,
        strength: float = 1.0,
        temperature: float = 2.0,
        compression_epochs: int = 130,
        compression_lr: float = 1.0,
    ):
        super().__init__()
        if not (0 <= boosting_beta < 1 and 0 <= compression_beta < 1) or compression_epochs < 1:
            raise ConfigurationError(
                f"FOSTER.boosting_beta is {boosting_beta:g}, FOSTER.compression_beta {compression_beta:g} and "
                f"FOSTER.compression_epochs {compression_epochs}; both β must be at least 0 and below 1, the epochs at "
                "least 1"
            )
        if strength < 0 or temperature <= 0 or compression_lr <= 0:
            raise ConfigurationError(
                f"FOSTER.strength is {strength:g}, FOSTER.temperature {temperature:g} and FOSTER.compression_lr "
                f"{compression_lr:g}; the strength must be at least 0, the others above 0"
            )
        self.boosting_beta, self.compression_beta = boosting_beta, compression_beta
        self.strength, self.temperature = strength, temperature
        self.compression_epochs, self.compression_lr = compression_epochs, compression_lr
        self.teacher, self.joint = Teacher(), ExitLinears()
        self.register_buffer("samples_of_class", torch.empty(0, dtype=torch.int64))

    def begin_task(self, task, network, trainer) -> None:
        if task.is_first:
            return
        known = torch.cat([self.memory.targets, task.train.targets.to(self.memory.targets.device)])
        self.samples_of_class = known.bincount(minlength=task.classes_seen).to(network.device)
        reduced = network.reduce([torch.zeros(1, *shape, device=network.device) for shape in network.shapes])
        draws = partial(trainer.generator, "joint classifier", task.index)
        self.joint.build([2 * value.numel() for value in reduced], task.classes_seen, draws, network.device)
        with torch.no_grad():
            for layer, head, value in zip(self.joint.layers, self.teacher.network.heads, reduced, strict=True):
                weight, bias = linear_map(head, value[0])
                layer.weight[: len(weight), : weight.shape[1]] = weight
                layer.bias[: len(bias)] = bias

    def learns(self, network: ExitNetwork):
        return [*network.parameters(), *self.joint.parameters()]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        if batch.task.is_first:
            return cross_entropy(network(batch.images), batch.targets)
        joint, own, old = self.boosted(network, batch.images)
        weights = effective_number_weights(self.samples_of_class, self.boosting_beta)
        loss = cross_entropy(joint / weights, batch.targets) + cross_entropy(own, batch.targets)
        return loss + self.strength * global_distillation(joint, old, self.temperature)

    def boosted(self, network: ExitNetwork, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the joint classifier [E, B, C], of the network's own heads and of the old network [E, B, C_old]."""
        old_values, old = self.teacher(images, reduced_and_logits)
        values, own = reduced_and_logits(network, images)
        both = [
            torch.cat([first.flatten(1), second.flatten(1)], 1)
            for first, second in zip(old_values, values, strict=True)
        ]
        return self.joint(both).float(), own, old

    def compress(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Makes `network` the one that both are compressed into."""
        student = copied(cast(ExitNetwork, self.teacher.network)).requires_grad_(True)
        student.grow(task.num_classes, trainer.seed)
        data = TrainingSet(concatenate(task.train, self.memory.samples), task)
        weights = effective_number_weights(self.samples_of_class, self.compression_beta)

        def loss(student: ExitNetwork, batch: Batch) -> Tensor:
            with torch.no_grad():
                joint, *_ = self.boosted(network, batch.images)
            return balanced_distillation(student(batch.images), joint, weights, self.temperature)

        rate = {"lr": self.compression_lr * trainer.training.lr, "schedule": "cosine", "warmup": 0, "weight_decay": 0.0}
        settings = trainer.with_training(epochs=self.compression_epochs, select="last", **rate)
        trainer.fit(Fit(student, loss, data, settings, stage="compression"))
        network.load_state_dict(student.state_dict())

    def choose_exemplars(self, task, network, trainer) -> None:
        # Before the memory makes room for new classes: both stages learn from the same samples.
        if not task.is_first:
            self.compress(task, network, trainer)
        super().choose_exemplars(task, network, trainer)

    def end_task(self, task, network, trainer) -> None:
        self.joint = ExitLinears()  # of no more use
        self.teacher.update(network)


def reduced_and_logits(network: ExitNetwork, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """What linear heads are linear in, of each exit, and the logits [E, B, C]."""
    reduced = network.reduce(network.hidden(images))
    return reduced, network.answer(reduced)
