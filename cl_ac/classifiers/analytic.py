"""Analytic classifiers: ridge regression on random features, learned task by task as if on all data at once.

Shapes: C classes seen, D features, M random features, N samples.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.classifier import Classifier
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer


class ACIL(Classifier):
    """Ridge regression of the classes on random features (Zhuang et al., 2022, ACIL).

    Features f of an exit are widened to `X = ReLU(f P)` with a random P, drawn once as `torch.nn.Linear` does. With
    one-hot targets Y the answer is `X W`, `W = (XᵀX + ridge · I)⁻¹ XᵀY` over the data of all tasks: XᵀX and XᵀY are
    summed task by task and the data forgotten, so that W is that of all data at once. (The authors update the inverse
    batch by batch, which comes to the same.) Made for a frozen backbone: elsewhere sums of earlier tasks go stale.

    Args:
        width: random features M of each exit. The authors take 8192 for one exit; sums take 8 M² bytes for each.
        ridge: of the regression.
        temperature: by which scores, which are meant to be 0 and 1, are divided; changes no exit's answers but their
            confidence.
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    needs_equal_features: ClassVar[bool] = True

    def __init__(self, width: int = 2048, ridge: float = 0.1, temperature: float = 0.1, **reading):
        super().__init__(**reading)
        if width < 1:
            raise ConfigurationError(f"classifier.width is {width}; it must be at least 1")
        for name, value in (("ridge", ridge), ("temperature", temperature)):
            if value <= 0:
                raise ConfigurationError(f"classifier.{name} is {value}; it must be above 0")
        self.width, self.ridge, self.temperature = width, ridge, temperature

    def fit(self, task: Task, network: ExitNetwork, trainer: Trainer, memory: Memory) -> None:
        for features, targets in self.passes(network, task.train.without_extras(), trainer):
            labels = F.one_hot(targets, task.classes_seen).double()
            for index, part in enumerate(features):
                if not hasattr(self, f"projection_{index}"):
                    stream = trainer.generator("random features", len(network) - 1 - index)
                    self.register_buffer(f"projection_{index}", projection(part, self.width, stream))
                self.add("", index, self.widened(index, part).relu().double(), labels)
        self.solve("", len(network))

    def widened(self, index: int, features: Tensor) -> Tensor:
        """Random features of exit `index` before their activation [N, M]."""
        return features @ getattr(self, f"projection_{index}")

    def add(self, stream: str, index: int, inputs: Tensor, labels: Tensor) -> None:
        """Adds inputs [N, M] and labels [N, C] to the sums of one exit."""
        gram, cross = inputs.T @ inputs, inputs.T @ labels
        if hasattr(self, f"{stream}gram_{index}"):
            gram = gram + getattr(self, f"{stream}gram_{index}")
            earlier = getattr(self, f"{stream}cross_{index}")
            cross = cross + F.pad(earlier, (0, cross.shape[1] - earlier.shape[1]))
        self.register_buffer(f"{stream}gram_{index}", gram)
        self.register_buffer(f"{stream}cross_{index}", cross)

    def solve(self, stream: str, exits: int) -> None:
        """Finds the weights of all exits from the sums."""
        for index in range(exits):
            gram, cross = (getattr(self, f"{stream}{name}_{index}") for name in ("gram", "cross"))
            self.register_buffer(f"{stream}weight_{index}", regression(gram, cross, self.ridge).float())

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

    def __init__(
        self,
        width: int = 2048,
        ridge: float = 0.1,
        compensation: float = 0.6,
        temperature: float = 0.1,
        **reading,
    ):
        super().__init__(width, ridge, temperature, **reading)
        self.compensation = compensation

    def fit(self, task, network, trainer, memory) -> None:
        super().fit(task, network, trainer, memory)
        for features, targets in self.passes(network, task.train.without_extras(), trainer):
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


def projection(features: Tensor, width: int, stream: torch.Generator) -> Tensor:
    """A random matrix [D, M] for features [N, D], within ±1/√D."""
    bound = 1 / math.sqrt(features.shape[1])
    drawn = torch.empty(features.shape[1], width).uniform_(-bound, bound, generator=stream)
    return drawn.to(features.device)


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
