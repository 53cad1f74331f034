"""DyER: a frozen backbone for each task, whose features are joined, and a classifier trained anew on balanced data."""

from functools import partial

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, TrainingSet
from cl_ac.backbones.branching import branch, make_branching, newest_features, newest_widths
from cl_ac.errors import ConfigurationError
from cl_ac.heads import ExitLinears
from cl_ac.losses import auxiliary_cross_entropy, cross_entropy
from cl_ac.training import Fit


class DyER(Approach):
    """Dynamically expandable representation (Yan, Xie & He, 2021), DER in the paper.

    Each task after the first adds a copy of the newest backbone, which learns while the earlier ones are frozen, and
    every exit reads the features of all. Beside the cross-entropy over all classes, an auxiliary head on the new
    features tells the new classes apart, with one more class for all old ones. Then the classifiers are drawn anew and
    trained alone on the exemplars, which are balanced. Channel masks and pruning are left out, as in the published
    code, so that n tasks cost n backbones, in memory and in time.

    Args:
        auxiliary: weight of the auxiliary heads' loss.
        classifier_epochs: epochs of the classifiers alone; 0 leaves them as the task trained them.
        classifier_lr: rate of the classifiers alone, as a share of the run's; a tenth of it from half of the epochs on.
        temperature: by which logits are divided while the classifiers learn alone.
    """

    family = "expansion"
    memory_use = "required"
    adds_features = True

    def __init__(
        self,
        auxiliary: float = 1.0,
        classifier_epochs: int = 30,
        classifier_lr: float = 1.0,
        temperature: float = 5.0,
    ):
        super().__init__()
        if auxiliary < 0 or classifier_epochs < 0 or classifier_lr <= 0 or temperature <= 0:
            raise ConfigurationError(
                f"DyER.auxiliary is {auxiliary:g}, DyER.classifier_epochs {classifier_epochs}, DyER.classifier_lr "
                f"{classifier_lr:g} and DyER.temperature {temperature:g}; the first two must be at least 0, the others "
                "above 0"
            )
        self.auxiliary, self.temperature = auxiliary, temperature
        self.classifier_epochs, self.classifier_lr = classifier_epochs, classifier_lr
        self.auxiliary_heads = ExitLinears()

    def prepare(self, backbone) -> None:
        make_branching(backbone)

    def expand(self, task, network, trainer) -> None:
        if not task.is_first:
            branch(network, trainer.seed)

    def begin_task(self, task, network, trainer) -> None:
        if not task.is_first:
            draws = partial(trainer.generator, "auxiliary head", task.index)
            self.auxiliary_heads.build(newest_widths(network), 1 + task.num_classes, draws, network.device)

    def learns(self, network: ExitNetwork):
        return [*network.parameters(), *self.auxiliary_heads.parameters()]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task, hidden = batch.task, network.hidden(batch.images)
        loss = cross_entropy(network.classify(hidden), batch.targets)
        if task.is_first:
            return loss
        outputs = self.auxiliary_heads(newest_features(network, network.read(hidden)))
        return loss + self.auxiliary * auxiliary_cross_entropy(outputs, batch.targets, task.classes)

    def classifier_loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        """The loss of the classifiers alone."""
        with torch.no_grad():
            hidden = network.hidden(batch.images)
        return cross_entropy(network.classify(hidden) / self.temperature, batch.targets)

    def end_task(self, task, network, trainer) -> None:
        self.auxiliary_heads = ExitLinears()  # of no more use
        if task.is_first or not self.classifier_epochs:
            return
        network.reset_heads(trainer.seed)
        settings = {"epochs": self.classifier_epochs, "lr": self.classifier_lr * trainer.training.lr}
        schedule = {"schedule": "multistep", "milestones": (0.5,), "decay": 0.1, "warmup": 0, "select": "last"}
        alone = Fit(
            network,
            self.classifier_loss,
            TrainingSet(self.memory.samples, task),
            trainer.with_training(**settings, **schedule),
            stage="classifiers",
            parameters=network.heads.parameters(),
            exit_weights=network.exits.weights_of_heads,
            fixed_statistics=True,
        )
        trainer.fit(alone)
