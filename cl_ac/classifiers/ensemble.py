"""Ensembles of the exits' linear heads, as an inference classifier.

Shapes: E exits, N samples, C classes seen.
"""

from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.fitting import minimise
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer

Combination = Literal["geometric", "arithmetic"]


class Ensemble(Classifier):
    """Each exit answers together with all shallower ones, by learned weights (Wołczyk et al., 2021, Zero Time Waste).

    With p_j the probabilities of the linear head of exit j, exit i (counted from 1) answers
    `log q_i = β_i + 1/i · Σ_{j≤i} exp(ω_ij) log p_j + constant` (geometric), or with q_i proportional to
    `exp(β_i) + Σ_{j≤i} exp(ω_ij) p_j` (arithmetic, the paper's ablation). The network learns nothing by it.

    ω and β are fitted after each task, from where they stood, by the cross-entropy on the exemplars, each class
    counting the same. Where a class has no exemplars ω alone is fitted, on held-out samples of the task: β would learn
    to prefer its classes. Where there are neither, both stay. New classes start with a β of 0. Heads are read as they
    are trained, without the approach's correction of logits.

    Args:
        combination: `geometric` or `arithmetic`.
        with_final: whether the final exit answers with the others, as in the paper's code of 2021; else it answers
            alone, as in the later one.
        decay: weight of the squared distance of ω and β from where a fit starts.
    """

    reads_logits: ClassVar[bool] = True
    takes_repeated_classes = True

    def __init__(self, combination: Combination = "geometric", with_final: bool = True, decay: float = 1e-3):
        super().__init__()
        if combination not in get_args(Combination):
            raise ConfigurationError(unknown("classifier.combination", combination, get_args(Combination)))
        if decay < 0:
            raise ConfigurationError(f"classifier.decay is {decay}; it must be at least 0")
        self.combination, self.with_final, self.decay = combination, with_final, decay
        self.register_buffer("omega", torch.empty(0, 0))
        self.register_buffer("beta", torch.empty(0, 0))

    def grow(self, exits: int, classes: int, device: torch.device) -> None:
        """Makes room for `classes` classes; what was fitted stays."""
        self.omega = self.omega if len(self.omega) else torch.zeros(exits, exits, device=device)
        beta = self.beta if len(self.beta) else torch.zeros(exits, 0, device=device)
        self.beta = F.pad(beta, (0, classes - beta.shape[1]))

    def update(self, task: Task, network: ExitNetwork, trainer: Trainer, memory: Memory) -> None:
        self.grow(len(network), task.classes_seen, trainer.device)
        held_out = None if task.validation is task.test else task.validation
        complete = len(memory) and memory.samples.targets.bincount(minlength=task.classes_seen).all()
        samples = memory.samples if complete else held_out
        if samples is None or not len(samples):
            return
        logits = trainer.predict(network, samples.without_extras())
        self.fit_to(logits, samples.targets.cpu(), with_beta=bool(complete))

    def fit_to(self, logits: Tensor, targets: Tensor, with_beta: bool) -> None:
        """Lowers the cross-entropy on heads' logits [E, N, C] with targets [N], all classes weighing the same.

        Args:
            with_beta: whether β learns too.
        """
        scores = logits.double().log_softmax(-1)
        weights = 1 / targets.bincount(minlength=logits.shape[-1])[targets].double()
        weights = weights / weights.sum()
        start = self.omega.double().cpu(), self.beta.double().cpu()
        omega, beta = (value.clone() for value in start)

        def loss() -> Tensor:
            answers = self.combine(scores, omega, beta).log_softmax(-1)
            errors = -answers.gather(-1, targets.expand(len(answers), -1)[..., None])[..., 0] @ weights
            moved = (omega - start[0]).square().sum() + (beta - start[1]).square().sum()
            return errors.sum() + self.decay * moved

        minimise(loss, [omega, beta] if with_beta else [omega])
        self.omega, self.beta = omega.to(self.omega), beta.to(self.beta)

    def combine(self, scores: Tensor, omega: Tensor, beta: Tensor) -> Tensor:
        """Logits [E, B, C] of all exits, from their heads' log-probabilities."""
        return torch.stack([self._row(index, scores[: index + 1], omega, beta) for index in range(len(scores))])

    def _row(self, index: int, scores: Tensor, omega: Tensor, beta: Tensor) -> Tensor:
        """Logits [B, C] of one exit, from the log-probabilities [index + 1, B, C] of the exits so far."""
        if index == len(omega) - 1 and not self.with_final:
            return scores[-1]
        weights, shift = omega[index, : index + 1], beta[index]
        if self.combination == "geometric":
            return shift + torch.tensordot(weights.exp(), scores, 1) / (index + 1)
        terms = torch.cat([shift.expand_as(scores[:1]), weights[:, None, None] + scores])
        return terms.logsumexp(0)

    def score(self, index, features) -> Tensor:
        return features

    def features(self, network: ExitNetwork, images: Tensor) -> list[Tensor]:
        """The logits of each exit's linear head: E tensors [B, C]."""
        return list(network(images))

    def logits(self, features) -> Tensor:
        scores = self.scores(features).log_softmax(-1)
        return self.combine(scores, self.omega.to(scores.dtype), self.beta.to(scores.dtype))

    def logits_at(self, index: int, log_probabilities: Tensor) -> Tensor:
        dtype = log_probabilities.dtype
        return self._row(index, log_probabilities, self.omega.to(dtype), self.beta.to(dtype))
