"""Training of a finished network that makes its feed-forward networks sparse and leaves its answers as they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cl_ac.approach import Approach
from cl_ac.data.batches import Batch, TrainingSet
from cl_ac.data.copying import copied
from cl_ac.data.samples import Samples
from cl_ac.data.tasks import Task
from cl_ac.efficiency.sparsify import SparsifiedLoss, Sparsify
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy, feature_distillation, taskwise_distillation
from cl_ac.network import ExitNetwork
from cl_ac.training import EpochReport, Fit, Loss, Trainer


@dataclass(frozen=True)
class SparseTuning:
    """How a finished network is trained on while it becomes sparse.

    Args:
        epochs: over the data; 0 leaves the network as it is.
        lr: learning rate of AdamW at the start; a cosine lowers it to 0.
        weight_decay: of AdamW.
        target: `network` keeps what the network says, forgotten classes included, at every exit; `labels` learns the
            labels, which on data of all tasks undoes forgetting.
    """

    epochs: int = 30
    lr: float = 1e-3
    weight_decay: float = 0.0
    target: Literal["network", "labels"] = "network"

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.lr <= 0 or self.weight_decay < 0:
            raise ConfigurationError(
                f"finetune has epochs {self.epochs}, lr {self.lr:g} and weight_decay {self.weight_decay:g}; "
                "lr must be above 0 and the others at least 0"
            )


def finetuned(
    network: ExitNetwork,
    approach: Approach,
    data: Samples,
    task: Task,
    trainer: Trainer,
    settings: SparseTuning,
    sparsify: Sparsify,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> ExitNetwork:
    """A copy of `network`, made sparse on `data`.

    Args:
        approach: says whether answers come from the linear heads or from features.
        task: the last one that the network learned.
    """
    student = copied(network)
    if not settings.epochs:
        return student.eval()
    sparsify.prepare(student)
    student.requires_grad_(True)
    training = trainer.with_training(
        epochs=settings.epochs,
        optimizer="adamw",
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        schedule="cosine",
        warmup=0,
        clip=1.0,
        select="last",
    )
    loss = _loss(network.frozen_copy(), approach, settings)
    steps = settings.epochs * -(-len(data) // training.batch_size)
    sparsifying = Fit(
        student,
        SparsifiedLoss(loss, sparsify, steps),
        TrainingSet(data, task),
        training,
        stage="sparsify",
        exit_weights=[*network.exits.weights, 1.0],
    )
    trainer.fit(sparsifying, on_epoch=on_epoch)
    return student


def _loss(before: ExitNetwork, approach: Approach, settings: SparseTuning) -> Loss:
    """One value per exit: cross-entropy, or the distance to what the network said before."""

    def labels(network: ExitNetwork, batch: Batch) -> Tensor:
        return cross_entropy(network(batch.images), batch.targets)

    def answers(network: ExitNetwork, batch: Batch) -> Tensor:
        with torch.no_grad():
            old = before.hidden(batch.images)
            old_logits, old_features = before.classify(old), before.read(old)
        new = network.hidden(batch.images)
        everything = [slice(0, network.num_classes)]
        distance = taskwise_distillation(network.classify(new), old_logits, everything, temperature=1.0)
        if approach.inference is None:
            return distance
        return distance + feature_distillation(network.read(new), old_features)

    return labels if settings.target == "labels" else answers
