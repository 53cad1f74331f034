"""Elastic weight consolidation: parameters that the predictions on old tasks depend on are held back."""

from typing import Literal

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task
from cl_ac.errors import ConfigurationError
from cl_ac.importance.fisher import batch_mean_fisher, per_sample_fisher, published_fisher
from cl_ac.importance.gradients import final_blocks
from cl_ac.importance.penalty import QuadraticPenalty
from cl_ac.losses import cross_entropy


class EWC(Approach):
    """Elastic weight consolidation (Kirkpatrick et al., 2017, eq. 3): `+ strength / 2 · Σ_n F_n (θ_n − θ*_n)²`.

    Each exit has the diagonal Fisher information F of its own predictions, and all share θ*; heads are never protected.
    After each task `F ← alpha · F + (1 − alpha) · F_new`, from F = 0, or with `decay`, which is online EWC (Schwarz et
    al., 2018), `F ← decay · F + F_new`.

    The variants of F differ by orders of magnitude, and so do the strengths that suit them.

    Args:
        strength: λ; the default did best on held-out samples of split digits with the default Fisher
            (scripts/studies/digits_choose.yaml); the published 10000 goes with `published_fisher`.
        alpha: share of the old Fisher that is kept; −1 keeps the share of old classes among all classes.
        fisher: per sample and with labels `sampled` from the model, whose expectation is `exact`, the sum over the
            predictive distribution (one backward pass per class); `empirical`, with true labels; `max_pred`, with the
            most probable ones; `batch_mean`, the squared mean gradient of batches, as in other frameworks.
        scope: what an AC protects: the whole `prefix` of the backbone that it depends on, or only the `block` that it
            hangs at, as in the AC paper's code. The final classifier protects the whole backbone.
        published_fisher: the Fisher of the AC paper's code instead of `fisher`.
        decay: γ of online EWC, in place of `alpha`; 1 sums over tasks.
    """

    family = "regularisation"
    copes_with = frozenset({"repeated classes"})

    def __init__(
        self,
        strength: float = 100.0,
        alpha: float = 0.5,
        fisher: Literal["sampled", "exact", "empirical", "max_pred", "batch_mean"] = "sampled",
        scope: Literal["prefix", "block"] = "prefix",
        published_fisher: bool = False,
        decay: float | None = None,
    ):
        super().__init__()
        if alpha != -1 and not 0 <= alpha <= 1:
            raise ConfigurationError(
                f"approach.alpha is {alpha}; it must be from 0 to 1, or -1 for the share of classes"
            )
        if decay is not None and not 0 <= decay <= 1:
            raise ConfigurationError(f"approach.decay is {decay}; it must be from 0 to 1, or absent for approach.alpha")
        self.strength, self.alpha, self.decay = strength, alpha, decay
        self.fisher, self.scope, self.published_fisher = fisher, scope, published_fisher
        self.penalty = QuadraticPenalty()

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        loss = cross_entropy(network(batch.images), batch.targets, self.trained_classes(batch.task))
        if batch.task.is_first:
            return loss
        return loss + self.strength / 2 * self.penalty(network)

    def end_task(self, task, network, trainer) -> None:
        keep = task.old_classes.stop / task.classes_seen if self.alpha == -1 else self.alpha
        # The published Fisher moves batch statistics, but no parameter.
        information = self.information(task, network, trainer)
        if self.decay is None:
            self.penalty.fuse(information, keep)
        else:
            self.penalty.fuse(information, self.decay, add=1.0)
        self.penalty.anchor_at(network)

    def information(self, task: Task, network: ExitNetwork, trainer) -> Tensor:
        """F_new of each exit: [E, P]."""
        if self.published_fisher:
            fisher = published_fisher(task, network, trainer)
        elif self.fisher == "batch_mean":
            fisher = batch_mean_fisher(task, network, trainer)
        else:
            fisher = per_sample_fisher(self.fisher, task, network, trainer)
        return torch.where(final_blocks(network), fisher, 0.0) if self.scope == "block" else fisher
