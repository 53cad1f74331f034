"""SSRE: the backbone grows by small adapters, and new samples like old classes teach less and keep more."""

from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.backbones.parallel_adapters import adapters, add_parallel_adapters, fold_adapters
from cl_ac.classifiers.prototypes import Prototypes, reduced
from cl_ac.losses import cross_entropy, cross_entropy_per_sample, feature_distances, sample_mean
from cl_ac.network import Backbone, batch_norms
from cl_ac.teacher import Teacher


class SSRE(Approach):
    """Self-sustaining representation expansion (Zhu et al., 2022, CVPR).

    With m the largest cosine between the features of a new image and the prototypes of old classes, `mean_x (1 − m)
    CE(z / τ; y) + distillation · Σ_x m ‖f(x) − f_old(x)‖ + prototypes · CE(W p_c / τ; c)`; as in the authors' code the
    second term is a sum over the batch. After the first task the backbone learns by 1 × 1 convolutions beside its
    larger ones alone, which are folded into them after each task, and batch norm stays as the first task left it.

    An AC's features are all that its head reads. Prototypes are taken without augmentation; the authors' code takes
    them from augmented images.

    Args:
        prototypes: weight of the classification of prototypes.
        distillation: weight of the distillation of features.
        temperature: τ, by which logits are divided, also at inference: confidences are those that were trained.
        replay: prototypes in each step; None takes as many as new images.
    """

    family = "prototypes"
    memory_use = "none"
    trains_old_rows = True

    def __init__(
        self,
        prototypes: float = 10.0,
        distillation: float = 1.0,
        temperature: float = 0.1,
        replay: int | None = None,
    ):
        super().__init__()
        self.prototype_weight, self.distillation = prototypes, distillation
        self.temperature, self.replay = temperature, replay
        self.teacher, self.prototypes = Teacher(), Prototypes()

    def prepare(self, backbone: Backbone) -> None:
        add_parallel_adapters(backbone)

    def learns(self, network: ExitNetwork):
        beside = adapters(network.backbone)
        added, is_first = {id(each) for each in beside}, len(network.sizes) == 1
        for stage in network.backbone.stages[network.backbone.frozen_stages :]:
            for parameter in stage.parameters():
                parameter.requires_grad_((id(parameter) in added) != is_first)
        return [parameter for parameter in network.parameters() if parameter.requires_grad]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        if batch.task.is_first:
            return cross_entropy(network(batch.images) / self.temperature, batch.targets)
        for layer in batch_norms(network):
            layer.eval()
        features = reduced(network, batch.images)
        likeness = self.prototypes.likeness(features)
        errors = cross_entropy_per_sample(network.answer(features) / self.temperature, batch.targets)
        loss = sample_mean((1 - likeness) * errors)
        kept = (likeness * feature_distances(features, self.teacher(batch.images, reduced))).sum(1)
        chosen = self.prototypes.draw(self.replay or len(batch), batch)
        logits = network.answer(self.prototypes.at(chosen)) / self.temperature
        replayed = cross_entropy(logits, self.prototypes.targets[chosen])
        return loss + self.prototype_weight * replayed + self.distillation * kept

    def correct(self, logits: Tensor) -> Tensor:
        return logits / self.temperature

    def end_task(self, task, network, trainer) -> None:
        fold_adapters(network.backbone)
        self.prototypes.add(task, network, trainer)
        self.teacher.update(network)
