"""X-DER: rows of classes to come are prepared by contrast."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cl_ac.approach import Batch, ExitNetwork, Task, TrainingSet
from cl_ac.approaches.xder_ce import XDERCE
from cl_ac.errors import ConfigurationError
from cl_ac.losses import supervised_contrast
from cl_ac.network import batch_norms

# The authors' changes to the run's augmentation.
STRONG = {
    "crop": "resized",
    "scale": (0.2, 1.0),
    "jitter": (0.4, 0.4, 0.4, 0.1),
    "jittered": 0.8,
    "grayscale": 0.2,
}


class XDER(XDERCE):
    """Extended dark experience replay (Boschini et al., 2022): XDERCE, but classes to come are prepared by contrast.

    New images are classified among the new classes alone, and `preparation` times the supervised contrastive loss
    (Khosla et al., 2020) of strongly augmented views, of new images and a third draw of exemplars, is added. Classes to
    come are split into groups of as many as the task has new ones; the loss is that of a group's logits, mean over the
    groups. The views' batches leave the statistics of batch norm alone. Views are mirrored only where the run's
    augmentation does so.

    Args:
        classes: how many classes the run will have; there may be fewer.
        strength: weight of the distillation term (α).
        replay_weight: weight of the cross-entropy on exemplars (β).
        constraint: weight of the constraints (η).
        margin: of the constraints (m).
        share: the part of its own class's logit that a transplanted one may reach (γ).
        past: whether old classes are constrained too, as in the authors' first code; a later version leaves that off.
        preparation: weight of the contrastive loss (λ).
        temperature: of the contrastive loss.
        views: of each image.
        contrasted: how many new images, and how many exemplars, are contrasted in each step.
    """

    needs_images = "contrasts views of images"

    def __init__(
        self,
        classes: int = 100,
        strength: float = 0.3,
        replay_weight: float = 0.8,
        constraint: float = 0.1,
        margin: float = 0.3,
        share: float = 0.85,
        past: bool = True,
        preparation: float = 0.05,
        temperature: float = 5.0,
        views: int = 4,
        contrasted: int = 64,
    ):
        super().__init__(classes, strength, replay_weight, constraint, margin, share, past)
        if views < 2 or contrasted < 1:
            raise ConfigurationError(
                f"XDER.views is {views} and XDER.contrasted {contrasted}; they must be at least 2 and at least 1"
            )
        self.preparation, self.temperature, self.views, self.contrasted = preparation, temperature, views, contrasted

    def trained_classes(self, task: Task) -> slice:
        return task.classes

    def training_set(self, task: Task) -> TrainingSet:
        views = (STRONG,) * (self.views if task.classes_seen < self.classes else 0)
        return TrainingSet(task.train, task, self.memory.samples, replay=(None, None, self.contrasted), views=views)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        loss = super().loss(network, batch)
        if batch.task.classes_seen >= self.classes:
            return loss
        return loss + self.preparation * self.contrast(network, batch)

    def contrast(self, network: ExitNetwork, batch: Batch) -> Tensor:
        """The contrastive loss of each exit over the classes to come: [E]."""
        parts = (batch, batch.replay[2])
        images = torch.cat([part.views[view][: self.contrasted] for view in range(self.views) for part in parts])
        targets = torch.cat([part.targets[: self.contrasted] for part in parts]).repeat(self.views)
        with statistics_kept(network):
            future = self.every_logit(network, images)[..., batch.task.classes_seen :]
        groups = future.split(batch.task.num_classes, -1)
        return torch.stack([supervised_contrast(group, targets, self.temperature) for group in groups]).mean(0)


@contextmanager
def statistics_kept(network: ExitNetwork) -> Iterator[None]:
    """Lets batch norm normalise by the batch at hand, and keep its running statistics as they are."""
    layers = batch_norms(network)
    tracked = [layer.track_running_stats for layer in layers]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, value in zip(layers, tracked, strict=True):
            layer.track_running_stats = value
