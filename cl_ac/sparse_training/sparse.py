"""Static sparse training as an option of a run: a share of the weights, chosen before the first step, learns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.classifier import Classifier
from cl_ac.data.batches import Batch
from cl_ac.data.copying import copied
from cl_ac.data.seeding import global_stream
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError
from cl_ac.heads import GrowingLinear
from cl_ac.network import ExitNetwork
from cl_ac.sparse_training.densities import erdos_renyi, kept_shares, share_out
from cl_ac.sparse_training.heads import SparseLinear
from cl_ac.sparse_training.initialise import (
    Kernels,
    approximate_isometry,
    exactly_orthogonal,
    highest,
    masked_orthogonal,
    rescaled_gaussian,
)
from cl_ac.sparse_training.layers import MaskedLayer, masked_layers, put_masks
from cl_ac.sparse_training.record import SparseRecord, record
from cl_ac.sparse_training.scores import grasp, magnitude, snip, synflow
from cl_ac.training import Trainer

Init = Literal["eoi", "isometry", "orthogonal", "gaussian", "own"]
Layers = Literal["erk", "uniform", "magnitude", "snip", "grasp", "synflow"]


@dataclass(frozen=True)
class Sparse:
    """Which share of a backbone's weights learns at all, and what they start from; biases and norms stay dense.

    Frozen stages stay as they are.

    Args:
        density: share of the weights of convolutions and linear layers that is kept; 1 leaves the network alone.
        init: exactly orthogonal (`eoi`, Nowak et al., 2024), or in a mask given by `layers`: the nearest to an
            `isometry` that is found (Lee et al., 2020), the masked part of an `orthogonal` one, a rescaled `gaussian`,
            or the backbone's `own` values.
        layers: how dense each layer is, all together having `density`: `uniform`, `erk` by shapes (Evci et al., 2020),
            or as the highest scores of `magnitude`, `snip`, `grasp` (of one batch of the first task) or `synflow` are
            spread. With another `init` than `eoi` the mask is that of the scores, and random for the first two.
        kernels: which places of larger kernels are kept: `scattered`, with as dense a centre as the layer; with a
            denser centre (`fuller`); or `whole` kernels, the linear layers being left alone.
        gain: σ, by which orthogonal weights are multiplied.
        heads: whether the classifiers of all exits are sparse too.
        jacobian: images of which the singular values of the Jacobian are recorded at the start and after each task; 0
            for none.
    """

    density: float = 1.0
    init: Init = "eoi"
    layers: Layers = "erk"
    kernels: Kernels = "scattered"
    gain: float = 1.0
    heads: bool = False
    jacobian: int = 4

    def __post_init__(self) -> None:
        for name, known in (("init", Init), ("layers", Layers), ("kernels", Kernels)):
            if getattr(self, name) not in get_args(known):
                raise ConfigurationError(
                    f"sparse.{name} is '{getattr(self, name)}'; it must be one of {', '.join(get_args(known))}"
                )
        if not 0 < self.density <= 1:
            raise ConfigurationError(f"sparse.density is {self.density:g}; it must be above 0 and at most 1")
        if self.gain <= 0 or self.jacobian < 0:
            raise ConfigurationError(
                f"sparse.gain is {self.gain:g} and sparse.jacobian {self.jacobian}; the first must be above 0, the "
                "second at least 0"
            )

    @property
    def enabled(self) -> bool:
        """Whether there is anything to do."""
        return self.density < 1

    def prepare(self, network: ExitNetwork) -> None:
        """Gives `network` the masks, all true; a saved state brings what they hold.

        Raises:
            ConfigurationError: if there is nothing to mask, or too little would be left of it.
        """
        if not self.enabled:
            return
        put_masks(network.backbone, self.kernels == "whole")
        layers, name = list(masked_layers(network.backbone)), type(network.backbone).__name__
        if not layers:
            kinds = "convolution" if self.kernels == "whole" else "convolution or linear layer"
            raise ConfigurationError(
                f"sparse.density is {self.density:g}, but the backbone {name} has no {kinds} that learns"
            )
        self._counts(layers, [1.0] * len(layers))
        for head in network.heads if self.heads else ():
            classifier = head.classifier
            if type(classifier) is not GrowingLinear:
                raise ConfigurationError(
                    f"sparse.heads is true, but the approach answers with {type(classifier).__name__}, which is no "
                    "plain linear classifier; leave it out"
                )
            if self.density * classifier.in_features < 1:
                raise ConfigurationError(
                    f"sparse.density is {self.density:g}, but with sparse.heads a classifier of "
                    f"{classifier.in_features} features needs at least {1 / classifier.in_features:.4g}"
                )
            gain = self.gain if self.init == "eoi" else None
            head.classifier = SparseLinear(classifier.in_features, self.density, gain)

    def initialise(self, network: ExitNetwork, task: Task, trainer: Trainer) -> None:
        """Chooses the masks of a prepared network before its first task, and what the weights start from.

        Args:
            task: the first.
        """
        if not self.enabled:
            return
        layers = list(masked_layers(network.backbone))
        scores = self._scores(network, layers, task, trainer)
        if self.layers == "uniform":
            shares = [1.0] * len(layers)
        elif self.layers == "erk":
            shares = [erdos_renyi(layer.original.shape) for layer in layers]
        else:
            shares = kept_shares(scores, self.density)
        for index, (layer, score, count) in enumerate(zip(layers, scores, self._counts(layers, shares), strict=True)):
            stream = trainer.generator("sparse weights", index)
            if self.init == "eoi":
                layer.set(*exactly_orthogonal(layer, count, self.gain, self.kernels, stream))
                continue
            kept = highest(score.cpu(), count, layer.matrices[3] if self.kernels == "whole" else 1)
            if self.init == "isometry":
                weight = approximate_isometry(layer, kept, self.gain, stream)
            elif self.init == "orthogonal":
                weight = masked_orthogonal(layer, self.gain, stream)
            elif self.init == "gaussian":
                weight = rescaled_gaussian(layer, kept, self.gain, stream)
            else:
                weight = layer.original.detach()
            layer.set(weight, kept)

    def record(
        self, network: ExitNetwork, task: Task, trainer: Trainer, classifier: Classifier | None = None
    ) -> SparseRecord:
        """What a network is like at the start or the end of `task`, whose first images its Jacobians are taken at.

        Args:
            classifier: what answers at inference; None for the linear heads.
        """
        few = task.train.select(torch.arange(min(self.jacobian, len(task.train))))
        images = next(trainer.loader(few).in_order(max(self.jacobian, 1)), torch.empty(0))
        return record(network, images, self.gain, classifier)

    def _counts(self, layers: list[MaskedLayer], shares: list[float]) -> list[int]:
        """How many weights each layer keeps."""
        taps = [layer.matrices[3] if self.kernels == "whole" else 1 for layer in layers]
        least = [layer.fewest if self.init == "eoi" else 1 for layer in layers]
        fewest = [count * kernel for count, kernel in zip(least, taps, strict=True)]
        return share_out(shares, [layer.size for layer in layers], fewest, self.density)

    def _scores(self, network: ExitNetwork, layers: list[MaskedLayer], task: Task, trainer: Trainer) -> list[Tensor]:
        """What the mask of each layer goes by: the highest are kept."""
        if self.layers == "magnitude":
            return magnitude(layers)
        if self.layers == "synflow":
            return synflow(network, self.density)
        if self.layers in ("snip", "grasp"):
            trial = copied(network).train()
            trial.grow(task.num_classes, trainer.seed)
            score = snip if self.layers == "snip" else grasp
            with global_stream(trainer.seed, "sparse scores"):
                return score(list(masked_layers(trial.backbone)), _loss_of_a_batch(trial, task, trainer))
        stream = trainer.generator("sparse mask")
        return [torch.rand(layer.original.shape, generator=stream) for layer in layers]


def _loss_of_a_batch(network: ExitNetwork, task: Task, trainer: Trainer) -> Callable[[float], Tensor]:
    """The weighted sum of the exits' cross-entropies on the first batch of a task, at a temperature of the softmax."""
    size, draws = trainer.training.batch_size_of(task.index), trainer.generator("sparse scores")
    batch: Batch = next(trainer.loader(task.train).shuffled(size, len(task.train), draws, task))

    def loss(temperature: float) -> Tensor:
        logits = network(batch.images) / temperature
        values = torch.stack([F.cross_entropy(each, batch.targets) for each in logits])
        return (values * values.new_tensor([*network.exits.weights, 1.0])).sum()

    return loss
