"""PackNet: each task keeps its most important weights for ever, and the next ones share what is left."""

import torch
from torch import Tensor
from torch.func import functional_call

from cl_ac.approach import Batch, ExitNetwork, TaskApproach, TrainingSet
from cl_ac.errors import ConfigurationError
from cl_ac.importance.gradients import joined, protected
from cl_ac.importance.holding import held, learning_without_decay, split
from cl_ac.losses import cross_entropy
from cl_ac.training import Fit, Learning

FREE = -1


class PackNet(TaskApproach):
    """PackNet (Mallya & Lazebnik, 2018), for images whose task is known.

    A task trains the weights that are free. Of each layer's, the smallest are then set to 0 and are free again, while
    the others are trained on for some epochs and belong to the task. The network of a task has its own weights and
    those of the tasks before it. Biases and batch norm belong to the first task, its statistics being those from before
    pruning. All exits share the weights; classifier rows belong to their tasks anyway. Weight decay acts on heads only.

    Args:
        prune: share of a task's weights of each layer that it gives up.
        retrain_epochs: epochs after pruning.
        retrain_lr: learning rate there, as a share of `training.lr`.
    """

    family = "task networks"

    def __init__(self, prune: float = 0.75, retrain_epochs: int = 10, retrain_lr: float = 0.1):
        super().__init__()
        if not 0 < prune < 1:
            raise ConfigurationError(f"approach.prune is {prune}; it must be above 0 and below 1")
        if retrain_epochs < 0:
            raise ConfigurationError(f"approach.retrain_epochs is {retrain_epochs}; it must be at least 0")
        self.prune, self.retrain_epochs, self.retrain_lr = prune, retrain_epochs, retrain_lr
        # The task that each backbone parameter belongs to [P].
        self.register_buffer("owner", torch.empty(0, dtype=torch.int64))

    def begin_task(self, task, network, trainer) -> None:
        if task.is_first:
            count = sum(parameter.numel() for parameter in protected(network).values())
            self.owner = torch.full((count,), FREE, device=trainer.device)

    def learns(self, network: ExitNetwork) -> Learning:
        return learning_without_decay(network)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        return self.loss_of(self.owner == FREE, network, batch)

    def loss_of(self, learning: Tensor, network: ExitNetwork, batch: Batch) -> Tensor:
        """Cross-entropy of the task's classes, which moves the parameters where `learning` [P] is true."""
        if not batch.task.is_first:
            network.backbone.eval()
        logits = functional_call(network, held(network, ~learning), (batch.images,))
        return cross_entropy(logits, batch.targets, batch.task.classes)

    def end_task(self, task, network, trainer) -> None:
        self.owner = joined(self.claimed(task.index, network).values(), trainer.device).long()
        learning = self.owner == task.index
        for name, free in split(network, self.owner == FREE).items():
            protected(network)[name].data[free] = 0
        if self.retrain_epochs:
            settings = {"epochs": self.retrain_epochs, "lr": self.retrain_lr * trainer.training.lr, "warmup": 0}
            retraining = Fit(
                network,
                lambda network, batch: self.loss_of(learning, network, batch),
                TrainingSet(task.train, task),
                trainer.with_training(**settings, schedule="constant", select="last"),
                stage="retrain",
                parameters=learning_without_decay(network),
                # Units without weights would leave a variance of 0 to the tasks that take them over.
                fixed_statistics=True,
            )
            trainer.fit(retraining)

    @torch.no_grad()
    def claimed(self, task: int, network: ExitNetwork) -> dict[str, Tensor]:
        """The owner of each parameter when `task` has chosen its own among those that are free."""
        owners = split(network, self.owner)
        for name, parameter in protected(network).items():
            free, owner = owners[name] == FREE, owners[name]
            if parameter.ndim > 1:
                sizes = parameter.abs()[free]
                given_up = torch.zeros_like(sizes, dtype=torch.bool)
                given_up[sizes.argsort()[: int(self.prune * len(sizes))]] = True
                owners[name] = owner.masked_scatter(free, torch.where(given_up, FREE, task).to(owner.dtype))
            else:
                owners[name] = torch.where(free, task, owner)
        return owners

    def tensors_in_task(self, network: ExitNetwork, task: int) -> dict[str, Tensor]:
        newest = task == len(network.sizes) - 1
        # While a task learns, what is free is its own.
        mine = (self.owner <= task) & ((self.owner != FREE) | newest)
        owned = split(network, mine)
        return {name: value * owned[name] for name, value in protected(network).items()}
