"""A hypernetwork: a target whose weights are emitted for each sample by another network.

Shapes: B batch, D values of a condition.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from cl_ac.errors import ConfigurationError
from cl_ac.hypernetworks.emitters import emitter
from cl_ac.hypernetworks.layout import Layout, Spread, Start, spread

Mode = Literal["replace", "add", "modulate"]


class Hypernetwork(nn.Module):
    """A target whose weights, or some of them, depend on a condition.

    What is not emitted is shared by all samples and learns as usual. A target must not keep statistics of batches,
    since each sample passes a network of its own.

    Args:
        target: any module.
        inputs: D; values of a condition should have a mean square of 1.
        hidden: widths of the hidden layers of the perceptron that emits.
        emitted: names of parameters, or of modules that have them, that are emitted; None for all.
        mode: `replace`, the emitted weights take the place of the target's; `add`, they are added to those, which
            learn too; `modulate`, the target's are multiplied by 1 plus them. In the last two, all samples begin with
            the target as it is.
        start: how weights that replace are spread at first, see `spread`.
        chunk: emit so many weights at a time, with a learned embedding for each chunk; 0 for all at once.
        chunk_inputs: values of such an embedding.

    Raises:
        ConfigurationError: for a name that the target does not have, or a size below 1.
    """

    def __init__(
        self,
        target: nn.Module,
        inputs: int,
        hidden: Sequence[int] = (64, 64),
        emitted: Sequence[str] | None = None,
        mode: Mode = "replace",
        start: Start = "fan",
        chunk: int = 0,
        chunk_inputs: int = 32,
    ):
        super().__init__()
        if mode not in ("replace", "add", "modulate"):
            raise ConfigurationError(f"mode is '{mode}'; it must be replace, add or modulate")
        self.target, self.mode = target, mode
        self.layout = Layout.of(target, emitted)
        first = spread(target, self.layout, start)
        if mode != "replace":
            deviation = torch.ones_like(first.deviation) if mode == "modulate" else first.deviation
            first = Spread(torch.zeros_like(first.mean), deviation, share=0)
        self.emitter = emitter(inputs, hidden, first, chunk, chunk_inputs)
        for name in self.layout.shapes if mode == "replace" else ():
            # They would never be read, and weight decay would move them.
            owner, _, last = name.rpartition(".")
            target.get_submodule(owner).register_parameter(last, None)

    def weights(self, condition: Tensor) -> dict[str, Tensor]:
        """The emitted tensors [B, *shape] of the target by name, for conditions [B, D]."""
        emitted = self.layout.split(self.emitter(condition))
        if self.mode == "replace":
            return emitted
        shared = {name: self.target.get_parameter(name) for name in emitted}
        if self.mode == "add":
            return {name: shared[name] + value for name, value in emitted.items()}
        return {name: shared[name] * (1 + value) for name, value in emitted.items()}

    def forward(self, condition: Tensor, *inputs: Tensor, same_inputs: bool = False) -> Tensor:
        """What each sample's target makes of its inputs: [B, ...].

        Args:
            condition: [B, D].
            inputs: of the target, each [B, ...], and given to it without the batch axis.
            same_inputs: every sample's target gets all of `inputs` [...], which have no batch axis.
        """

        def apply(weights: dict[str, Tensor], *given: Tensor) -> Tensor:
            return functional_call(self.target, weights, given)

        places = (0, *((None if same_inputs else 0) for _ in inputs))
        return vmap(apply, places, randomness="different")(self.weights(condition), *inputs)
