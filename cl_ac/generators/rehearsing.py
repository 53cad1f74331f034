"""A generator that learns task after task, and the one of the previous task that it is rehearsed with."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cl_ac.data.copying import copied
from cl_ac.data.seeding import global_stream
from cl_ac.generators.adam import Adam
from cl_ac.generators.generator import Generator


class Rehearsing(nn.Module):
    """A generator with its optimiser, and its copy as it was after the previous task.

    Args:
        generator: what learns.
        lr: its learning rate.
    """

    def __init__(self, generator: Generator, lr: float):
        super().__init__()
        self.generator, self.adam = generator, Adam(lr)
        self.previous: Generator | None = None

    def build(self, shapes: Sequence[Sequence[int]], reads: Sequence[int] | None = None) -> None:
        """Makes the layers of the generator, as `Generator.build` does; then a state may be loaded."""
        self.generator.build(shapes, reads)

    def begin_task(self, num_classes: int, seed: int, task: int, device: torch.device) -> None:
        """Prepares for new classes, which draw from a stream of their own; what the optimiser kept is forgotten."""
        with global_stream(seed, "generator classes", task):
            self.generator.grow(num_classes)
        self.generator.to(device)
        self.adam.reset(list(self.generator.parameters()))

    def loss(
        self, features: Sequence[Tensor], targets: Tensor, stream: torch.Generator, read: Tensor | None, rows: slice
    ) -> Tensor:
        """The generator's loss [], as `Generator.loss` says, where `read` has further rows than those of features.

        Args:
            rows: those of `read` that the features are of.
        """
        return self.generator.loss(features, targets, stream, None if read is None else read[rows])

    def watched(self, loss: Tensor) -> Tensor:
        """The generator's whole loss [], as it is to be added to what the run lowers: see `Adam.watch`."""
        return self.adam.watch(loss)

    def step(self) -> None:
        """One step of the optimiser, down the gradients that are there."""
        self.adam.step(list(self.generator.parameters()))

    def end_task(self) -> None:
        """Takes the copy."""
        self.previous = copied(self.generator).eval().requires_grad_(False)

    def expect(self, keys: Iterable[str]) -> None:
        """Prepares for loading a state with these `keys`, which may hold a copy."""
        if any(key.startswith("previous.") for key in keys):
            self.end_task()
