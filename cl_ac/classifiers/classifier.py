"""Classifiers that answer at inference in place of the trained linear heads, on the features of every exit.

They stand on any approach and change nothing in training. Shapes: E exits, B batch, C classes seen, D_i features of
exit i, N samples.

Logits are log-probabilities, so that their softmax is a confidence which early-exit rules can compare over exits.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.fitting import fit_weights
from cl_ac.data.growing import Growing
from cl_ac.data.layouts import Layout, read
from cl_ac.data.samples import Samples, concatenate
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer

Aggregation = Literal["own", "uniform", "learned"]
# Images whose products are added to those of earlier ones together: a sum over few costs little less than the adding.
BLOCK = 2048
ReadFeatures = Callable[[ExitNetwork, Tensor], list[Tensor]]


class Classifier(Growing):
    """Answers from features. A subclass defines `fit` and `score`.

    Features do not depend on the linear heads, so that statistics stay valid while those grow and learn: a feature map
    is pooled to at most `side` × `side` cells, of tokens the class token, or their mean, is taken and
    layer-normalised, a vector stays.

    Exits may answer together. The log-probabilities of exit i and of all shallower exits, which an early exit at i has
    computed anyway, are added with non-negative weights A [E, E], zero above the diagonal: `z_i = Σ_l A_il log p_l`.

    Args:
        aggregation: `own`, each exit answers alone; `uniform`, the mean over exits so far; `learned`, weights fitted
            after each task by cross-entropy on held-out samples of the task and the exemplars (uniform if there are
            neither, or if they leave nothing of an exit's weights; test samples are never used).
        sparsity: L1 penalty on learned weights; more of it uses fewer exits.
        pooling: how a feature map is reduced.
        side: largest side of the pooled map.
    """

    # Whether `score` reads the linear head's logits of an exit in place of its features.
    reads_logits: ClassVar[bool] = False
    # Whether what it keeps of earlier tasks cannot be read beside features that have been added since.
    needs_equal_features: ClassVar[bool] = False
    # Passes of the whole network that `features` takes before exits can answer.
    passes_before: ClassVar[int] = 0
    # Whether a later task may bring classes of an earlier one again.
    takes_repeated_classes: bool = False

    def __init__(
        self,
        aggregation: Aggregation = "own",
        sparsity: float = 0.01,
        pooling: Literal["average", "max"] = "average",
        side: int = 4,
    ):
        super().__init__()
        if sparsity < 0:
            raise ConfigurationError(f"classifier.sparsity is {sparsity}; it must be at least 0")
        if side < 1:
            raise ConfigurationError(f"classifier.side is {side}; it must be at least 1")
        self.aggregation, self.sparsity, self.pooling, self.side = aggregation, sparsity, pooling, side
        self.register_buffer("weights", torch.empty(0, 0))

    def fit(self, task: Task, network: ExitNetwork, trainer: Trainer, memory: Memory) -> None:
        """Learns the classes of `task`, after training."""
        raise NotImplementedError

    def score(self, index: int, features: Tensor) -> Tensor:
        """Unnormalised log-probabilities [B, C] of exit `index` alone, from its features [B, D_i]."""
        raise NotImplementedError

    def scores(self, features: Sequence[Tensor]) -> Tensor:
        """Unnormalised log-probabilities [E, B, C] of each exit alone."""
        return torch.stack([self.score(index, part) for index, part in enumerate(features)])

    def update(self, task: Task, network: ExitNetwork, trainer: Trainer, memory: Memory) -> None:
        """Learns the classes of `task` and how to weigh the exits; called once after each task."""
        self.fit(task, network, trainer, memory)
        exits = len(network)
        device = trainer.device
        self.weights = torch.eye(exits, device=device)
        if self.aggregation != "own":
            self.weights = torch.ones_like(self.weights).tril() / torch.arange(1, exits + 1, device=device)[:, None]
        held_out = [] if task.validation is task.test else [task.validation.without_extras()]
        samples = concatenate(*held_out, memory.samples.without_extras())
        if self.aggregation == "learned" and len(samples):
            passes = list(self.passes(network, samples, trainer))
            scores = torch.cat([self.scores(features) for features, _ in passes], 1)
            fitted = fit_weights(scores, torch.cat([targets for _, targets in passes]), self.sparsity)
            # An exit all of whose weights are zero would answer nothing.
            self.weights = torch.where(fitted.any(1, keepdim=True), fitted, self.weights)

    def features(self, network: ExitNetwork, images: Tensor) -> list[Tensor]:
        """What is known of each image at each exit: E tensors [B, D_i]."""
        return self.vectors(network, network.hidden(images))

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """[E, B, C]."""
        # Scores may be small differences of large numbers, which the precision of training need not tell apart.
        with torch.autocast(features[0].device.type, enabled=False):
            scores = self.scores(features).log_softmax(-1)
            return torch.einsum("il,lbc->ibc", self.weights.to(scores.dtype), scores)

    def logits_at(self, index: int, log_probabilities: Tensor) -> Tensor:
        """What `logits` gives for exit `index` [B, C], from log-probabilities [index + 1, B, C] of the exits so far."""
        weights = self.weights[index, : index + 1].to(log_probabilities.dtype)
        return torch.tensordot(weights, log_probabilities, 1)

    def vectors(self, network: ExitNetwork, hidden: Sequence[Tensor]) -> list[Tensor]:
        """What is known of each image at each exit, of what `network.hidden` gave: E tensors [B, D_i]."""
        layouts = (cast(Layout, head.layout) for head in network.heads)
        return [self.vector(part, layout).float() for part, layout in zip(hidden, layouts, strict=True)]

    def vector(self, hidden: Tensor, layout: Layout) -> Tensor:
        """What is known of each image at an exit whose head reads `hidden`, of that layout: [B, D_i]."""
        hidden = read(hidden, layout)
        if hidden.ndim == 4:
            size = (min(hidden.shape[2], self.side), min(hidden.shape[3], self.side))
            pool = F.adaptive_avg_pool2d if self.pooling == "average" else F.adaptive_max_pool2d
            return pool(hidden, size).flatten(1)
        return F.layer_norm(hidden[:, 0], hidden.shape[-1:]) if hidden.ndim == 3 else hidden

    @torch.no_grad()
    def passes(
        self,
        network: ExitNetwork,
        samples: Samples,
        trainer: Trainer,
        read: ReadFeatures | None = None,
        block: int = 1,
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Features and targets of batches of `samples`, without augmentation.

        Args:
            read: gives the features of images; by default `features`.
            block: images that come together at least, the last ones aside.
        """
        network.eval()
        read = self.features if read is None else read
        loader, size = trainer.loader(samples), trainer.answered_at_once(samples)
        held: list[list[Tensor]] = []
        for images, targets in zip(loader.in_order(size), loader.samples.targets.split(size), strict=True):
            with trainer.autocast():
                held.append([*read(network, images), targets])
            if sum(len(batch[-1]) for batch in held) >= block:
                yield _joined(held)
                held = []
        if held:
            yield _joined(held)


def _joined(batches: list[list[Tensor]]) -> tuple[list[Tensor], Tensor]:
    """Features and targets of batches, each of which ends with its targets, as one."""
    *features, targets = batches[0] if len(batches) == 1 else [torch.cat(parts) for parts in zip(*batches, strict=True)]
    return features, targets
