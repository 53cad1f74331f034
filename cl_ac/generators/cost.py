"""What training costs: multiply-accumulates (MACs), counted while it happens.

Those of matrix products and convolutions are, forward and backward; not those of element-wise work, normalisation and
the optimiser's step.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cl_ac.data.batches import Batch
from cl_ac.data.copying import copied
from cl_ac.data.tasks import Task
from cl_ac.generators.replay import Replay
from cl_ac.network import ExitNetwork
from cl_ac.network.entering import answers_of, run_places


class Replaying(Protocol):
    """An approach that replays samples of a generator."""

    def draw(self, network: ExitNetwork, batch: Batch) -> Replay: ...
    def taught(self, replay: Replay) -> list[Tensor | None]: ...
    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor: ...


def macs_of(run: Callable[[], object]) -> float:
    """The MACs of `run`."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


def macs_of_step(approach: Replaying, network: ExitNetwork, task: Task, size: int) -> dict[str, float]:
    """The MACs of one step for each of its `size` new images, by what they are spent on, at the end of `task`.

    `new images` and `samples`: the classifier, forward and backward, as far as samples make it work; `decoder`: drawing
    them; `teacher`: labelling them; `generator`: training it. A training without any replay costs `new images`.
    """
    assert isinstance(approach, nn.Module)
    trial, twin = copied(approach), copied(network).train()
    images = torch.zeros(size, *network.backbone.image_shape, device=network.device)
    classes = torch.full((size,), task.classes.start, device=network.device)
    batch = Batch(images, classes, task)

    def train(entering) -> None:
        answers = answers_of(twin, run_places(twin, images, entering))
        torch.cat([logits.flatten() for logits in answers if logits is not None]).sum().backward()

    def all_of_it() -> None:
        trial.loss(twin, batch).sum().backward()

    with torch.enable_grad():
        found = {"new images": macs_of(lambda: train({}))}
        if not task.is_first:
            found["decoder"] = macs_of(lambda: trial.draw(twin, batch))
            replay = trial.draw(twin, batch)
            found["teacher"] = macs_of(lambda: trial.taught(replay))
            found["samples"] = macs_of(lambda: train(replay.entering)) - found["new images"]
        found["generator"] = macs_of(all_of_it) - sum(found.values())
    return {name: value / size for name, value in found.items()}
