"""Memory aware synapses: parameters that the network's answers are sensitive to are held back."""

from typing import Literal

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task
from cl_ac.errors import ConfigurationError
from cl_ac.importance.gradients import chunk_size, per_sample_gradients
from cl_ac.importance.penalty import QuadraticPenalty
from cl_ac.losses import cross_entropy


class MAS(Approach):
    """Memory aware synapses (Aljundi et al., 2018, eqs. 2–5): `+ strength · Σ_n Ω_n (θ_n − θ*_n)²`.

    Each exit has its own `Ω = mean_x |∂ ‖z(x)‖² / ∂θ|` of its logits z over all classes seen, taken for each image
    alone, without augmentation; no label is needed. Heads are never protected. After each task, as in FACIL (the paper
    accumulates), `Ω ← alpha · Ω + (1 − alpha) · Ω_new`, from Ω = 0.

    Args:
        strength: λ.
        alpha: share of the old importance that is kept; −1 keeps the share of old classes among all classes.
        norm: `squared`, ‖z‖² as in the paper; `plain`, ‖z‖ as in FACIL (whose code also averages over each batch first,
            so that samples cancel).
        halved: whether the penalty is `strength / 2 · …`, as in FACIL; the paper has no ½.
    """

    family = "regularisation"
    copes_with = frozenset({"repeated classes"})

    def __init__(
        self,
        strength: float = 1.0,
        alpha: float = 0.5,
        norm: Literal["squared", "plain"] = "squared",
        halved: bool = False,
    ):
        super().__init__()
        if alpha != -1 and not 0 <= alpha <= 1:
            raise ConfigurationError(
                f"approach.alpha is {alpha}; it must be from 0 to 1, or -1 for the share of classes"
            )
        self.strength, self.alpha, self.norm, self.halved = strength, alpha, norm, halved
        self.penalty = QuadraticPenalty()

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        loss = cross_entropy(network(batch.images), batch.targets, self.trained_classes(batch.task))
        if batch.task.is_first:
            return loss
        return loss + (self.strength / 2 if self.halved else self.strength) * self.penalty(network)

    def end_task(self, task, network, trainer) -> None:
        keep = task.old_classes.stop / task.classes_seen if self.alpha == -1 else self.alpha
        self.penalty.fuse(self.sensitivity(task, network, trainer), keep)
        self.penalty.anchor_at(network)

    def sensitivity(self, task: Task, network: ExitNetwork, trainer) -> Tensor:
        """Ω_new of each exit: [E, P]."""
        network.eval()
        loader, size = trainer.loader(task.train), chunk_size(network)
        total = torch.zeros((), device=trainer.device)
        for images, targets in zip(loader.in_order(size), loader.samples.targets.split(size), strict=True):
            gradients = (
                per_sample_gradients(network, index, images, self._length, targets) for index in range(len(network))
            )
            total = total + torch.stack([part.abs().sum(0) for part in gradients])
        return total / len(loader)

    def _length(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.square().sum() if self.norm == "squared" else logits.norm()
