"""SCR: supervised contrastive learning on new images and exemplars, and nearest class means."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.data.augmentation import Augmentation
from cl_ac.errors import ConfigurationError
from cl_ac.heads import ExitLinears
from cl_ac.losses import supervised_contrast
from cl_ac.training import Learning


class SCR(Approach):
    """Supervised contrastive replay (Mai et al., 2021): images of a class draw together, those of others apart.

    Each image is seen twice, augmented as the run says and once more with a resized crop and other colours. Every exit
    has a projector (a layer, ReLU, a layer) of its own; linear heads learn nothing. At inference the nearest mean of
    the exemplars' features answers. Both views pass the network one after the other, as in the authors' code.

    Made for one pass over the data with small batches (`--training.epochs 1 --training.batch_size 10`). The
    authors' code also goes over the memory once more after each task, with a tenth of the gradient; the paper does not.

    Args:
        temperature: of the contrastive loss.
        replay: exemplars in each step.
        projection: length of what a projector gives; its layer in between has the width of the final exit's features.
        crop: smallest share of the area in the second view.
        jitter: changes of brightness, contrast, saturation and hue of 80 % of the images in the second view.
        grayscale: share of the images that lose their colours in the second view.
    """

    family = "replay"
    memory_use = "required"
    needs_images = "compares views of images"
    copes_with = frozenset({"repeated classes", "live memory", "no boundaries"})
    trains_heads = False

    def __init__(
        self,
        temperature: float = 0.1,
        replay: int = 100,
        projection: int = 128,
        crop: float = 0.2,
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        grayscale: float = 0.2,
    ):
        super().__init__()
        if temperature <= 0 or projection < 1:
            got = f"approach.temperature is {temperature} and approach.projection {projection}"
            raise ConfigurationError(f"{got}; the first must be above 0, the second at least 1")
        self.temperature, self.replay, self.projection = temperature, replay, projection
        self.view: dict[str, Any] = {"crop": "resized", "scale": (crop, 1.0), "grayscale": grayscale}
        self.view |= {"jitter": tuple(jitter), "jittered": 0.8}
        # Refuses impossible values now, not when the run has begun.
        try:
            Augmentation(**self.view)
        except ConfigurationError as error:
            raise ConfigurationError(f"in the second view of SCR {error}") from None
        self.between, self.projector = ExitLinears(), ExitLinears()

    def inference_classifier(self) -> Classifier:
        return NearestMean(newest="exemplars")

    def begin_task(self, task, network, trainer) -> None:
        if task.is_first:
            features = [head.classifier.in_features for head in network.heads]
            width, device = features[-1], network.device
            self.between.build(features, width, partial(trainer.generator, "projector", 0), device)
            inner = partial(trainer.generator, "projector", 1)
            self.projector.build([width] * len(network), self.projection, inner, device)

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, self.memory, replay=(self.replay,), views=(self.view,))

    def learns(self, network: ExitNetwork) -> Learning:
        return [*network.parameters(), *self.between.parameters(), *self.projector.parameters()]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        exemplars = batch.replay[0]
        targets = torch.cat([batch.targets, exemplars.targets])
        first = torch.cat([batch.images, exemplars.images])
        second = torch.cat([batch.views[0], exemplars.views[0]])
        projections = torch.cat([self.project(network, view) for view in (first, second)], 1)
        return supervised_contrast(projections, targets.repeat(2), self.temperature)

    def project(self, network: ExitNetwork, images: Tensor) -> Tensor:
        """What the projectors make of images: [E, B, projection]."""
        return self.projector(self.between(network.features(images)).relu().unbind())
