"""PODNet: pooled outputs of every resolution are distilled into a cosine classifier with several proxies per class."""

import math

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, TrainingSet
from cl_ac.classifiers.imprinting import imprint
from cl_ac.errors import ConfigurationError
from cl_ac.heads import GrowingCosine
from cl_ac.losses import feature_distillation, nca, spatial_distillation
from cl_ac.teacher import Teacher, TeacherStatistics
from cl_ac.training import Fit


class PODNet(Approach):
    """Pooled outputs distillation (Douillard et al., 2020), after each task balanced on the exemplars.

    Both distillation terms are multiplied by √(all classes / new classes). An exit distils the last feature map of
    each resolution below it and the one that it reads. Rows of old classes learn in the balanced phase only.

    Args:
        flat: weight of the distillation of features (POD-flat).
        spatial: weight of the distillation of feature maps (POD-spatial).
        margin: of the NCA loss, in units of similarity.
        proxies: classifier rows per class.
        balanced_epochs: epochs in which the classifiers alone learn from the exemplars, after each task but the first.
        balanced_lr: learning rate there, as a share of `training.lr`. The authors take 20 epochs at 0.05, half of the
            rate before; FACIL's form, 15 at 0.01 of it, hardly changes anything.
        imprint: whether new proxies start at k-means centres of their class's features, as the authors' do, or at
            random, as in FACIL.
        teacher_bn: the statistics of the teacher's batch norm; `batch` is teacher adaptation.
    """

    family = "rebalancing"
    memory_use = "required"
    trains_old_rows = False

    def __init__(
        self,
        flat: float = 1.0,
        spatial: float = 3.0,
        margin: float = 0.6,
        proxies: int = 10,
        balanced_epochs: int = 20,
        balanced_lr: float = 0.5,
        imprint: bool = True,
        teacher_bn: TeacherStatistics = "frozen",
    ):
        super().__init__()
        self.flat, self.spatial, self.margin, self.proxies = flat, spatial, margin, proxies
        self.balanced_epochs, self.balanced_lr, self.imprint = balanced_epochs, balanced_lr, imprint
        self.teacher = Teacher(teacher_bn)

    def build_classifier(self, in_features: int) -> GrowingCosine:
        return GrowingCosine(in_features, self.proxies)

    def begin_task(self, task, network, trainer) -> None:
        if not any(len(shape) == 3 for shape in network.stage_shapes):
            raise ConfigurationError(
                f"PODNet distils feature maps, but no stage of the backbone {type(network.backbone).__name__} gives "
                "any; choose a convolutional one"
            )
        self.teacher.begin_task(task, trainer)
        if self.imprint and not task.is_first:
            imprint(task, network, trainer)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        outputs = network.stage_outputs(batch.images)
        loss = self.classification(network, network.classify(network.at_exits(outputs)), batch.targets)
        if batch.task.is_first:
            return loss
        maps, features = pooled_outputs(network, outputs)
        old_maps, old_features = self.teacher(
            batch.images, lambda teacher, images: pooled_outputs(teacher, teacher.stage_outputs(images))
        )
        flat, spatial = feature_distillation(features, old_features), spatial_distillation(maps, old_maps)
        factor = math.sqrt(batch.task.classes_seen / batch.task.num_classes)
        return loss + factor * (self.flat * flat + self.spatial * spatial)

    def classification(self, network: ExitNetwork, logits: Tensor, targets: Tensor) -> Tensor:
        """The NCA loss of each exit [E].

        The margin does not train the scale of the similarities. If it did, as in published code, a negative scale
        would meet every margin without any learning, and short runs with momentum end there.
        """
        scales = torch.stack([head.classifier.scale for head in network.heads])
        return nca(logits, targets, self.margin * scales.detach())

    def balanced_loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        """The loss of the balanced phase, which reaches the heads only."""
        with torch.no_grad():
            hidden = network.hidden(batch.images)
        return self.classification(network, network.classify(hidden), batch.targets)

    def end_task(self, task, network, trainer) -> None:
        if not task.is_first and self.balanced_epochs:
            network.train_old_rows(True)
            lr = self.balanced_lr * trainer.training.lr
            balanced = Fit(
                network,
                self.balanced_loss,
                TrainingSet(self.memory.samples, task),
                trainer.with_training(epochs=self.balanced_epochs, lr=lr, schedule="constant", warmup=0, select="last"),
                stage="balanced",
                parameters=network.heads.parameters(),
                exit_weights=network.exits.weights_of_heads,
                fixed_statistics=True,
            )
            trainer.fit(balanced)
        self.teacher.update(network)


def pooled_outputs(network: ExitNetwork, outputs: list[Tensor]) -> tuple[list[list[Tensor]], list[Tensor]]:
    """What is distilled of the stages' outputs: for each exit its feature maps and its features."""
    return network.maps_below(outputs), network.read(network.at_exits(outputs))
