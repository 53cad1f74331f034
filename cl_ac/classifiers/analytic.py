"""Analytic classifiers: ridge regression on random features, learned task by task as if on all data at once.

Shapes: C classes seen, D features, M random features, N samples.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.classifier import BLOCK, Classifier
from cl_ac.data.samples import Samples
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer

# What a ridge is chosen from.
RIDGES = tuple(10.0**power for power in range(-8, 9))


class ACIL(Classifier):
    """Ridge regression of the classes on random features (Zhuang et al., 2022, ACIL).

    Features f of an exit are widened to `X = ReLU(f P)` with a random P, drawn once as `torch.nn.Linear` does. With
    one-hot targets Y the answer is `X W`, `W = (XᵀX + ridge · I)⁻¹ XᵀY` over the data of all tasks: XᵀX and XᵀY are
    summed task by task and the data forgotten, so that W is that of all data at once. (The authors update the inverse
    batch by batch, which comes to the same.) Made for a frozen backbone: elsewhere sums of earlier tasks go stale.

    Args:
        width: random features M of each exit. The authors take 8192 for one exit; sums take 8 M² bytes for each.
        ridge: of the regression. None chooses it after each task and for each exit, see `RanPAC`.
        temperature: by which scores, which are meant to be 0 and 1, are divided; changes no exit's answers but their
            confidence.
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    needs_equal_features: ClassVar[bool] = True
    takes_repeated_classes = True

    def __init__(self, width: int = 2048, ridge: float | None = 0.1, temperature: float = 0.1, **reading):
        super().__init__(**reading)
        if width < 1:
            raise ConfigurationError(f"classifier.width is {width}; it must be at least 1")
        for name, value in (("ridge", ridge), ("temperature", temperature)):
            if value is not None and value <= 0:
                raise ConfigurationError(f"classifier.{name} is {value}; it must be above 0")
        self.width, self.ridge, self.temperature = width, ridge, temperature

    def fit(self, task: Task, network: ExitNetwork, trainer: Trainer, memory: Memory) -> None:
        train = task.train.without_extras()
        if self.ridge is None:
            self.sum_up_and_choose(train, task, network, trainer)
        else:
            self.sum_up("", train, task, network, trainer)
        self.solve("", len(network))

    def sum_up(self, stream: str, samples: Samples, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Adds samples of a task to the sums of all exits."""
        for features, targets in self.passes(network, samples, trainer, block=BLOCK):
            labels = F.one_hot(targets, task.classes_seen).double()
            for index, part in enumerate(features):
                if not hasattr(self, f"projection_{index}"):
                    generator = trainer.generator("random features", len(network) - 1 - index)
                    drawn = self.projection(part.shape[1], generator)
                    self.register_buffer(f"projection_{index}", drawn.to(part.device))
                self.add(stream, index, self.widened(index, part).relu().double(), labels)

    def sum_up_and_choose(self, samples: Samples, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Adds samples of a task to the sums of all exits, and chooses the ridge of each exit on a fifth of them.

        Raises:
            UserError: if there are too few samples to hold any out.
        """
        if len(samples) < 2:
            raise UserError(
                f"classifier.ridge is null, to be chosen on held-out images, but task {task.index} has {len(samples)} "
                "training images; give a number"
            )
        order = torch.randperm(len(samples), generator=trainer.generator("held out", task.index))
        order = order.to(samples.targets.device)
        cut = 4 * len(samples) // 5
        for stream, rows in (("learned_", order[:cut]), ("held_out_", order[cut:])):
            self.sum_up(stream, samples.select(rows), task, network, trainer)
        for index in range(len(network)):
            learned, held_out = (self.sums(stream, index) for stream in ("learned_", "held_out_"))
            for stream, sums in (("learned_", learned), ("held_out_", held_out)):
                self.merge("", index, *sums)
                for name in ("gram", "cross"):
                    delattr(self, f"{stream}{name}_{index}")
            # Less is lost in the rounding of the sums over all tasks.
            gram, _ = self.sums("", index)
            least = torch.finfo(gram.dtype).eps * gram.trace().item()
            ridge = best_ridge(*learned, *held_out, [each for each in RIDGES if each >= least] or RIDGES[-1:])
            self.register_buffer(f"ridge_{index}", torch.tensor(ridge, dtype=gram.dtype, device=gram.device))

    def projection(self, features: int, generator: torch.Generator) -> Tensor:
        """The random matrix [D, M] of an exit with D features, within ±1/√D."""
        bound = 1 / math.sqrt(features)
        return torch.empty(features, self.width).uniform_(-bound, bound, generator=generator)

    def widened(self, index: int, features: Tensor) -> Tensor:
        """Random features of exit `index` before their activation [N, M]."""
        return features @ getattr(self, f"projection_{index}")

    def add(self, stream: str, index: int, inputs: Tensor, labels: Tensor) -> None:
        """Adds inputs [N, M] and labels [N, C] to the sums of one exit."""
        self.merge(stream, index, inputs.T @ inputs, inputs.T @ labels)

    def merge(self, stream: str, index: int, gram: Tensor, cross: Tensor) -> None:
        """Adds XᵀX [M, M] and XᵀY [M, C] of more samples to the sums of one exit."""
        if hasattr(self, f"{stream}gram_{index}"):
            total, earlier = self.sums(stream, index)
            gram = gram + total
            cross = cross + F.pad(earlier, (0, cross.shape[1] - earlier.shape[1]))
        self.register_buffer(f"{stream}gram_{index}", gram)
        self.register_buffer(f"{stream}cross_{index}", cross)

    def sums(self, stream: str, index: int) -> tuple[Tensor, Tensor]:
        """XᵀX [M, M] and XᵀY [M, C] of one exit."""
        return getattr(self, f"{stream}gram_{index}"), getattr(self, f"{stream}cross_{index}")

    def solve(self, stream: str, exits: int) -> None:
        """Finds the weights of all exits from the sums."""
        for index in range(exits):
            ridge = getattr(self, f"ridge_{index}").item() if self.ridge is None else self.ridge
            self.register_buffer(f"{stream}weight_{index}", regression(*self.sums(stream, index), ridge).float())

    def score(self, index, features) -> Tensor:
        return self.widened(index, features).relu() @ getattr(self, f"weight_{index}") / self.temperature


class DSAL(ACIL):
    """ACIL with a second stream for what the first one cannot fit (Zhuang et al., 2024, DS-AL).

    It reads the same random features through tanh and regresses on what is left of each task's labels when the first
    stream has learned them, in the columns of the task's own classes only. The answer is
    `main + compensation · second`. What is left is that of the first stream after the whole task, as in the paper;
    in the authors' code of its state after each batch, which makes the batch size matter.

    Args:
        compensation: weight of the second stream (the authors': 0.6 for CIFAR-100, 1.5 for ImageNet).
        width, ridge, temperature, reading: as of `ACIL`, for both streams.
    """

    takes_repeated_classes = False

    def __init__(
        self,
        width: int = 2048,
        ridge: float | None = 0.1,
        compensation: float = 0.6,
        temperature: float = 0.1,
        **reading,
    ):
        super().__init__(width, ridge, temperature, **reading)
        self.compensation = compensation

    def fit(self, task, network, trainer, memory) -> None:
        super().fit(task, network, trainer, memory)
        for features, targets in self.passes(network, task.train.without_extras(), trainer, block=BLOCK):
            labels = F.one_hot(targets, task.classes_seen).double()
            for index, part in enumerate(features):
                widened = self.widened(index, part).double()
                left = labels - widened.relu() @ getattr(self, f"weight_{index}").double()
                left[:, task.old_classes] = 0
                self.add("second_", index, widened.tanh(), left)
        self.solve("second_", len(network))

    def score(self, index, features) -> Tensor:
        widened = self.widened(index, features)
        main = widened.relu() @ getattr(self, f"weight_{index}")
        second = widened.tanh() @ getattr(self, f"second_weight_{index}")
        return (main + self.compensation * second) / self.temperature


class RanPAC(ACIL):
    """ACIL with normal random features, and a ridge that is chosen (McDonnell et al., 2023, RanPAC).

    The random P of `X = ReLU(f P)` is drawn from N(0, 1). After each task a regression on four fifths of its images,
    randomly drawn, is tried on the others with each ridge of 10⁻⁸, 10⁻⁷, …, 10⁸; the one with the least squared error
    then serves the regression on all images of all tasks. So only a fixed ridge makes the order of tasks no matter.
    Ridges that the rounding of the sums would lose are not tried.

    Args:
        width: random features M of each exit. The authors take 10000 for one exit; sums take 8 M² bytes for each, and
            three times that while a ridge is chosen.
        ridge: of the regression; None chooses it after each task and for each exit.
        temperature: by which scores, which are meant to be 0 and 1, are divided; changes no exit's answers but their
            confidence.
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    def __init__(self, width: int = 2048, ridge: float | None = None, temperature: float = 0.1, **reading):
        super().__init__(width, ridge, temperature, **reading)

    def projection(self, features, generator) -> Tensor:
        return torch.randn(features, self.width, generator=generator)


def best_ridge(
    gram: Tensor, cross: Tensor, held_out_gram: Tensor, held_out_cross: Tensor, ridges: Sequence[float]
) -> float:
    """Which of `ridges` gives the regression with the least squared error on held-out samples.

    One eigendecomposition serves all ridges, and the error is told from sums: `|X W − Y|² = tr Wᵀ(XᵀX W − 2 XᵀY)` plus
    what no ridge changes.

    Args:
        gram, cross: XᵀX [M, M] and XᵀY [M, C] of the samples that are learned.
        held_out_gram, held_out_cross: those of the held-out samples.
    """
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)[:, None]
    turned, held_out_cross = vectors.T @ cross, vectors.T @ held_out_cross
    held_out_gram = vectors.T @ held_out_gram @ vectors

    def error(ridge: float) -> float:
        weight = turned / (values + ridge)
        return (weight * (held_out_gram @ weight - 2 * held_out_cross)).sum().item()

    return min(ridges, key=error)


def regression(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """`(XᵀX + ridge · I)⁻¹ XᵀY` [M, C] of XᵀX [M, M] and XᵀY [M, C].

    Raises:
        UserError: if the ridge is lost in the rounding of XᵀX, which has no inverse alone.
    """
    regular = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(regular)
    if failed:
        largest = gram.diagonal().max().item()
        raise UserError(f"ridge is {ridge:g}, too small beside sums of features of up to {largest:.3g}; raise it")
    return torch.cholesky_solve(cross, factor)
