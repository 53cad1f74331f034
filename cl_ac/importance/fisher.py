"""Diagonal Fisher information of each exit's predictions: how much they change with each backbone parameter.

Shapes: E exits, B batch, C classes seen, P backbone parameters.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.data.tasks import Task
from cl_ac.importance.gradients import batch_gradients, chunk_size, per_sample_gradients
from cl_ac.losses import cross_entropy
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer

Labels = Literal["sampled", "exact", "empirical", "max_pred"]


def per_sample_fisher(labels: Labels, task: Task, network: ExitNetwork, trainer: Trainer) -> Tensor:
    """The mean of squared gradients of single samples, without augmentation and with fixed batch statistics.

    Args:
        labels: with p(y|x) the exit's softmax over all classes seen, `exact` takes `Σ_y p(y|x) (∂ log p(y|x))²`, one
            backward pass per class; `sampled` one label drawn from p(y|x), so that its expectation is `exact`;
            `empirical` the true label; `max_pred` the most probable one.
    Returns:
        [E, P].
    """
    network.eval()
    loader, size = trainer.loader(task.train), chunk_size(network)
    total = torch.zeros((), device=trainer.device)
    # Streams are named from the final exit on, so that it draws the same labels whatever ACs there are.
    streams = [trainer.generator("fisher labels", task.index, depth) for depth in reversed(range(len(network)))]
    for images, targets in zip(loader.in_order(size), loader.samples.targets.split(size), strict=True):
        with torch.no_grad():
            probabilities = network(images).softmax(-1)
        rows = []
        for index, stream in enumerate(streams):
            row = torch.zeros((), device=trainer.device)
            for chosen, weights in _weighted_labels(labels, probabilities[index], targets, stream):
                gradients = per_sample_gradients(network, index, images, _log_likelihood, chosen)
                row = row + weights @ gradients.square()
            rows.append(row)
        total = total + torch.stack(rows)
    return total / len(loader)


def _weighted_labels(
    kind: Labels, probabilities: Tensor, targets: Tensor, stream: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels [B] with their weights [B], for the predictions [B, C] of one exit."""
    once = torch.ones_like(probabilities[:, 0])
    if kind == "exact":
        for label, weights in enumerate(probabilities.unbind(1)):
            yield torch.full_like(targets, label), weights
    elif kind == "sampled":
        yield torch.multinomial(probabilities.cpu(), 1, generator=stream)[:, 0].to(targets.device), once
    else:
        yield (targets if kind == "empirical" else probabilities.argmax(1)), once


def _log_likelihood(logits: Tensor, label: Tensor) -> Tensor:
    return logits.log_softmax(0).gather(0, label[None])[0]


def batch_mean_fisher(task: Task, network: ExitNetwork, trainer: Trainer) -> Tensor:
    """The mean of squared gradients of whole training batches' mean loss, with true labels, as in Avalanche: [E, P].

    Gradients of different samples cancel before they are squared, which makes it smaller than the empirical Fisher by
    about the batch size.
    """
    network.eval()
    order = torch.randperm(len(task.train), generator=trainer.generator("fisher order", task.index))
    loader, size = trainer.loader(task.train.select(order)), trainer.training.batch_size
    total = torch.zeros((), device=trainer.device)
    batches = loader.samples.targets.split(size)
    for images, targets in zip(loader.in_order(size), batches, strict=True):
        total = total + batch_gradients(network, cross_entropy(network(images), targets)).square()
    return total / len(batches)


def published_fisher(task: Task, network: ExitNetwork, trainer: Trainer) -> Tensor:
    """The Fisher of the AC paper's code: [E, P].

    As `batch_mean_fisher` times the batch size, but with most probable labels, augmentation and batch norm in training
    mode, so that its running statistics move; and divided by the number of images after every batch rather than once,
    so that almost only the last batch counts, divided by the number of batches.
    """
    network.train()
    loader, size = trainer.loader(task.train), min(trainer.training.batch_size, len(task.train))
    total = torch.zeros((), device=trainer.device)
    count = len(loader) // size * size
    for batch in loader.shuffled(size, count, trainer.generator("fisher order", task.index), task):
        logits = network(batch.images)
        losses = torch.stack([F.cross_entropy(exit_logits, exit_logits.argmax(1)) for exit_logits in logits])
        total = (total + size * batch_gradients(network, losses).square()) / count
    network.eval()
    return total
