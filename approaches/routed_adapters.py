"""RoutedAdapters: low-rank adapters for each task, which every image mixes by the classes that it is like."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.prototypes import placed
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.tuning.bank import draw_next, mixed
from cl_ac.tuning.low_rank import add_low_rank
from cl_ac.tuning.routing import products, shared_weights, similarities_in_mixed_gallery
from cl_ac.tuning.sample_mixes import adapted_layers, mixed_by_sample


class RoutedAdapters(Approach):
    """A bank of low-rank adapters (Hu et al., 2022) that prototypes route; the pretrained backbone stays as it is.

    It answers by classes as the retrieval method `DAR` finds partners, and follows the idea in the abstract of "Dynamic
    Adapter Routing" (2026), which has no classes. Each task trains low-rank adapters of its own by the cross-entropy
    over its classes. An image passes the backbone as it came first; the cosine to the nearest class mean of each task
    says which tasks it is like. A second pass sums the outputs of the adapters of the `top` tasks, weighted for each
    image by a softmax over these cosines. Every exit compares what it reads there with the means of all classes, which
    are known under each adapter, mixed with the image's own weights. Means of old classes under newer adapters are
    placed by their likeness to the newer classes, as in `EASE`.

    Two passes answer, however many tasks there are; early exits come in the second.

    Args:
        rank: of the adapters.
        alpha: what is added is scaled by `alpha / rank`; None for `rank`, a factor of 1.
        layers: that have adapters, by the end of their path or a pattern of it, such as `qkv` or `blocks.*.attn.proj`,
            or `query`, `key` and `value` of every attention; None for all linear layers and convolutions but the first.
        top: tasks whose adapters are mixed for an image.
        temperature: of the softmax over the cosines of tasks, which gives their weights.
    """

    family = "tuning"
    memory_use = "none"

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        layers: list[str] | None = None,
        top: int = 2,
        temperature: float = 0.05,
    ):
        super().__init__()
        if top < 1 or temperature <= 0:
            raise ConfigurationError(
                f"approach.top is {top} and approach.temperature {temperature:g}; the first must be at least 1, the "
                "other above 0"
            )
        self.rank, self.alpha, self.layers, self.top, self.temperature = rank, alpha, layers, top, temperature

    def inference_classifier(self) -> Classifier:
        return RoutedMeans(self.top, self.temperature)

    def prepare(self, backbone) -> None:
        backbone.freeze("all")
        add_low_rank(backbone, self.rank, self.alpha, self.layers)
        # Layers whose outputs adapters cannot be added to are told before anything is learned.
        adapted_layers(backbone)
        # What frozen stages give depends on the mix.
        backbone.known_by_weights = False

    def expand(self, task, network, trainer) -> None:
        draw_next(network, task.index, lambda index: trainer.generator("adapters", task.index, index))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        return cross_entropy(network(batch.images), batch.targets, batch.task.classes)


class RoutedMeans(Classifier):
    """Class means under each of T adapters, mixed with an image's own weights, as `RoutedAdapters` describes it.

    Features [B, D + T] end with the weights of the adapters.

    Args:
        top: tasks that share the weight of an image.
        routing: temperature of the softmax over their cosines.
        temperature: of the cosines of classes; changes no exit's answers but their confidence.
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    passes_before = 1
    tasks: Tensor  # of each class [C]
    base: Tensor  # class means of the backbone as it came [C, D], at the final exit

    def __init__(self, top: int = 2, routing: float = 0.05, temperature: float = 0.05, **reading):
        super().__init__(**reading)
        self.top, self.routing, self.temperature = top, routing, temperature
        self.register_buffer("tasks", torch.empty(0, dtype=torch.int64))
        self.register_buffer("base", torch.empty(0, 0))

    def fit(self, task, network, trainer, memory) -> None:
        count = len(task.sizes)
        found = []
        for mix in ({}, *({adapter: 1.0} for adapter in range(count))):
            with mixed(network, mix):
                found.append(self.class_means(task, network, trainer))
        (*_, base), *under = found
        self.base = torch.cat([self.base.view(-1, base.shape[1]), base])
        self.tasks = torch.cat([self.tasks, torch.full((len(base),), task.index, device=base.device)])
        for index, parts in enumerate(zip(*under, strict=True)):
            new = torch.stack(parts, 1)  # [new classes, T, D]
            earlier = getattr(self, f"means_{index}", new[:0, :-1])
            means = placed(torch.cat([F.pad(earlier, (0, 0, 0, 1)), new]), task.sizes)
            self.register_buffer(f"means_{index}", means)
            self.register_buffer(f"products_{index}", products(F.normalize(means, dim=2).transpose(0, 1)))

    def class_means(self, task, network: ExitNetwork, trainer) -> list[Tensor]:
        """Means of normalised features of the new classes under the mix that is at work: E tensors [classes, D_i]."""
        sums: list[Tensor] = []
        for features, targets in self.passes(network, task.train.without_extras(), trainer, super().features):
            members = F.one_hot(targets - task.classes.start, task.num_classes).float().T  # [new classes, B]
            added = [members @ F.normalize(part) for part in features]
            sums = [total + part for total, part in zip(sums, added, strict=True)] if sums else added
        return [F.normalize(total) for total in sums]

    def route(self, network: ExitNetwork, images: Tensor) -> Tensor:
        """The weight of each adapter for each image [B, T]."""
        with mixed(network, {}):
            hidden = network.at_exits(network.stage_outputs(images))
        cosines = F.normalize(self.vectors(network, hidden)[-1]) @ self.base.T
        nearest = cosines.new_full((len(images), len(network.sizes)), -1.0)
        nearest = nearest.scatter_reduce(1, self.tasks.expand(len(images), -1), cosines, "amax")
        return shared_weights(nearest, self.top, self.routing)

    def features(self, network: ExitNetwork, images: Tensor) -> list[Tensor]:
        weights = self.route(network, images)
        # Each process answers the whole batch, whose images have weights of their own.
        with mixed_by_sample(network, weights):
            hidden = network.at_exits(network.stage_outputs(images))
        return [torch.cat([part, weights], 1) for part in self.vectors(network, hidden)]

    def score(self, index, features) -> Tensor:
        means = F.normalize(getattr(self, f"means_{index}"), dim=2).transpose(0, 1)  # [T, C, D]
        known = getattr(self, f"products_{index}")
        values, weights = features[:, : means.shape[2]], features[:, means.shape[2] :]
        if not weights.shape[1]:
            # Features that nobody has routed, of which the cost is counted.
            weights = weights.new_full((len(values), len(means)), 1 / len(means))
        return similarities_in_mixed_gallery(F.normalize(values), weights, means, known) / self.temperature
