"""RWalk: parameters are held back by their Fisher information and by how much of the loss their way has taken off."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.approach import ExitNetwork
from cl_ac.approaches.si import SI
from cl_ac.errors import ConfigurationError
from cl_ac.importance.gradients import flatten


class RWalk(SI):
    """Riemannian walk (Chaudhry et al., 2018): `+ strength · Σ_n (F_n / max F + s_n / max s) (θ_n − θ*_n)²`.

    After every `interval` steps, with g the gradient of the task loss as in SI, the Fisher information becomes
    `F ← alpha · mean g² + (1 − alpha) · F` (EWC++), from F = 0, and the score of the task grows by
    `max(0, −Σ g · Δθ / (½ F · (θ − θ_start)² + damping))`, the way being that of these steps. A task's last steps
    count even if they are fewer. At its end `s ← (s + score) / 2`. Heads are never protected.

    As in SI, g is of the weighted sum over exits, and the penalty comes with the final exit. For class-incremental
    learning the paper keeps exemplars.

    Args:
        strength: λ.
        alpha: share of the newest steps in F.
        interval: steps between updates; the authors' for CIFAR-100.
        damping: ε, keeps parameters that hardly moved from dominating; the authors'.
    """

    def __init__(self, strength: float = 1.0, alpha: float = 0.9, interval: int = 50, damping: float = 1e-3):
        super().__init__(strength, damping)
        if not 0 <= alpha <= 1 or interval < 1:
            raise ConfigurationError(
                f"RWalk.alpha is {alpha} and RWalk.interval {interval}; alpha must be from 0 to 1, the interval at "
                "least 1"
            )
        self.alpha, self.interval = alpha, interval
        # Over all tasks, over this one, and since the last update: [P] each.
        for name in ("fisher", "score", "task_score", "squares", "start"):
            self.register_buffer(name, torch.empty(0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def begin_task(self, task, network, trainer) -> None:
        super().begin_task(task, network, trainer)
        if task.is_first:
            self.fisher, self.score = torch.zeros_like(self.path), torch.zeros_like(self.path)
        self.task_score, self.squares = torch.zeros_like(self.path), torch.zeros_like(self.path)
        self.start, self.steps = self.penalty.anchor.clone(), torch.zeros_like(self.steps)

    def end_step(self, network: ExitNetwork) -> None:
        super().end_step(network)
        self.squares += (self.gradient / self.scale).nan_to_num(0.0, 0.0, 0.0).square()
        self.steps += 1
        self.update(flatten(network).detach(), self.steps == self.interval)

    def update(self, theta: Tensor, due: Tensor) -> None:
        """Takes the steps since the last update into Fisher and score where `due` [], without asking the device."""
        fisher = torch.lerp(self.fisher, self.squares / self.steps.clamp(min=1), self.alpha)
        gained = F.relu(self.path / (0.5 * fisher * (theta - self.start).square() + self.damping))
        self.fisher = torch.where(due, fisher, self.fisher)
        self.task_score = torch.where(due, self.task_score + gained, self.task_score)
        self.start = torch.where(due, theta, self.start)
        self.path, self.squares, self.steps = (
            value.masked_fill(due, 0) for value in (self.path, self.squares, self.steps)
        )

    def end_task(self, task, network, trainer) -> None:
        self.update(flatten(network).detach(), self.steps > 0)
        self.score = self.task_score if task.is_first else (self.score + self.task_score) / 2
        self.penalty.importance = sum(
            (value / largest(value).clamp(min=torch.finfo(value.dtype).tiny) for value in (self.fisher, self.score)),
            start=torch.zeros_like(self.fisher),
        )[None]


def largest(values: Tensor) -> Tensor:
    """The largest value []; 0 of none, where the whole backbone is frozen."""
    return values.max() if values.numel() else values.sum()
