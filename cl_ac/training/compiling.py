"""Steps of training through PyTorch's compiler."""

import warnings
from collections.abc import Hashable
from functools import cache

import torch
from torch import Tensor

from cl_ac.data.batches import Batch
from cl_ac.data.recognised import Recognised
from cl_ac.network import ExitNetwork
from cl_ac.training.fitting import Loss

# What compiles the traced programs; the name of a backend of `torch.compile`.
BACKEND = "inductor"


# What of a batch are plain numbers that differ from step to step; the program reads them instead of being made anew.
COUNTERS = ",".join(f"L['batch'].{name}" for name in ("epoch", "epochs", "step", "steps"))


class CompiledLoss:
    """A loss that is compiled as one program, from the images to one value per exit and back.

    It is made for batches with the shapes of the first one. Every epoch begins with such a batch, so that a run which
    goes on after any epoch compiles the same steps and has the same bits. Others, such as an epoch's last batch if it
    is smaller, and images that frozen stages recognise run as they are. So do all steps, and a warning says once why,
    where no program can be made: of a loss that draws from a batch's stream or takes gradients itself, or without a
    C++ compiler on a CPU.

    Args:
        loss: what is compiled; one object for each fit, since heads grow in between.
    """

    def __init__(self, loss: Loss):
        def program(network: ExitNetwork, batch: Batch) -> Tensor:
            return loss(network, batch)

        self.loss = loss
        # What it remembers of earlier tasks changes later programs, and a run that goes on has seen none of them.
        torch.compiler.reset()
        self._program: Loss | None = torch.compile(program, backend=BACKEND, fullgraph=True)
        self._shapes: Hashable = None

    def __call__(self, network: ExitNetwork, batch: Batch) -> Tensor:
        shapes = shapes_of(batch)
        if self._shapes is None:
            self._shapes = shapes
        if self._program is None or shapes != self._shapes or isinstance(batch.images, Recognised):
            return self.loss(network, batch)
        try:
            with torch.compiler.config.patch(dynamic_sources=COUNTERS):  # type: ignore[attr-defined]
                return self._program(network, batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            self._program = None
            tell_once(str(getattr(error, "inner_exception", error)).strip().splitlines()[0])
            return self.loss(network, batch)


@cache
def tell_once(reason: str) -> None:
    """Warns that steps are not compiled; each reason once in a process, and not for every task."""
    warnings.warn(f"the steps of training run without compilation: {reason}", stacklevel=3)


def shapes_of(batch: Batch) -> Hashable:
    """The shapes of all images that a loss sees of `batch`."""
    own = tuple(tuple(images.shape) for images in (batch.images, *batch.views))
    return own, tuple(map(shapes_of, batch.replay))
