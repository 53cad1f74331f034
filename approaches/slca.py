"""SLCA: the pretrained backbone learns slowly, and Gaussian features of all classes align the heads afterwards."""

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.classifiers.prototypes import Prototypes
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy, tasks_at_one_norm
from cl_ac.training import Fit, Learning, ParameterGroup


class SLCA(Approach):
    """Slow learner with classifier alignment (Zhang et al., 2023, ICCV), for a pretrained backbone.

    A task trains the cross-entropy over its own classes, the backbone at `backbone_rate` of the rate of the heads. Then
    all rows of the heads learn from features drawn from one Gaussian per class, `N(m_c μ_c, Σ_c + 1e-4 I)`, μ_c and Σ_c
    as the class's own task left them and `m_c = 0.9 + 0.1 (t_c + 1) / (t + 1)` for a class of task t_c after task t,
    by the cross-entropy of `z / (norm · n)`, where n is the mean over tasks of the length of a task's logits. The next
    task goes on from the heads as they were before.

    Each exit has Gaussians of what its head reads, so that heads, of ACs too, are aligned one by one. The authors keep
    whole covariances; here it is `rank` directions of each.

    Args:
        backbone_rate: rate of the backbone, as a share of `training.lr`; heads learn at all of it.
        alignment_epochs: epochs of the alignment; 0 for none. An epoch has as many steps as there are classes.
        alignment_lr: rate at their start, as a share of `training.lr`; it follows a cosine to 0.
        samples: features drawn for each step.
        norm: what the logits' length is divided by beside itself; None leaves logits as they are.
        rank: leading directions of each class's covariance that are kept.
    """

    family = "tuning"
    memory_use = "none"

    def __init__(
        self,
        backbone_rate: float = 0.01,
        alignment_epochs: int = 5,
        alignment_lr: float = 1.0,
        samples: int = 256,
        norm: float | None = 0.1,
        rank: int = 64,
    ):
        super().__init__()
        if alignment_epochs < 0 or not 0 < backbone_rate <= 1:
            raise ConfigurationError(
                f"SLCA.backbone_rate is {backbone_rate:g} and SLCA.alignment_epochs {alignment_epochs}; the rate must "
                "be above 0 and at most 1, the epochs at least 0"
            )
        for name, value in {"alignment_lr": alignment_lr, "samples": samples, "norm": norm, "rank": rank}.items():
            if value is not None and value <= 0:
                raise ConfigurationError(f"approach.{name} is {value:g}; it must be above 0")
        self.backbone_rate, self.samples, self.norm = backbone_rate, samples, norm
        self.alignment_epochs, self.alignment_lr = alignment_epochs, alignment_lr
        self.prototypes = Prototypes(rank)

    def expand(self, task, network, trainer) -> None:
        state = network.heads.state_dict()
        if hasattr(self, "before_0"):
            kept = {name: getattr(self, f"before_{index}") for index, name in enumerate(state)}
            network.heads.load_state_dict(kept)

    def learns(self, network: ExitNetwork) -> Learning:
        return [ParameterGroup(network.backbone.parameters(), self.backbone_rate), *network.heads.parameters()]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        return cross_entropy(network(batch.images), batch.targets, batch.task.classes)

    def end_task(self, task, network, trainer) -> None:
        self.prototypes.add(task, network, trainer)
        if task.is_first or not self.alignment_epochs:
            return
        for index, value in enumerate(network.heads.state_dict().values()):
            self.register_buffer(f"before_{index}", value.clone())
        network.train_old_rows(True)
        # Steps draw features of their own: each is handed an image that it does not look at.
        steps = torch.arange(task.classes_seen) % len(task.train)
        settings = {"epochs": self.alignment_epochs, "lr": self.alignment_lr * trainer.training.lr, "batch_size": 1}
        trainer.fit(
            Fit(
                network,
                self.alignment_loss,
                TrainingSet(task.train.without_extras().select(steps), task),
                trainer.with_training(**settings, first_batch_size=None, schedule="cosine", warmup=0, select="last"),
                stage="alignment",
                parameters=network.heads.parameters(),
                exit_weights=network.exits.weights_of_heads,
                fixed_statistics=True,
            )
        )

    def alignment_loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        """The loss of one step of the alignment."""
        chosen = self.prototypes.draw(self.samples, batch)
        targets = self.prototypes.targets[chosen]
        shift = self.shares(batch.task)[targets] - 1
        drawn = self.prototypes.gaussian(chosen, 1e-4, batch)
        moved = [
            value + torch.einsum("b,b...->b...", shift, mean)
            for value, mean in zip(drawn, self.prototypes.at(chosen), strict=True)
        ]
        logits = network.answer(moved)
        if self.norm is not None:
            logits = tasks_at_one_norm(logits, [*batch.task.old_tasks, batch.task.classes], self.norm)
        return cross_entropy(logits, targets)

    def shares(self, task: Task) -> Tensor:
        """The factor of each class's mean after `task` [C]."""
        sizes, device = torch.tensor(task.sizes), self.prototypes.targets.device
        tasks = torch.arange(len(sizes), dtype=torch.float32).repeat_interleave(sizes)
        return (0.9 + 0.1 * (tasks + 1) / len(sizes)).to(device, non_blocking=True)
