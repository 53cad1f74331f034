"""GDumb: a network trained from scratch on the memory alone."""

import torch
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.teacher import Teacher


class GDumb(Approach):
    """Greedy sampler and dumb learner (Prabhu et al., 2020), with CutMix (Yun et al., 2019).

    Before each task, the first included, the memory takes up its share of the new classes; a network with the weights
    that the run began with then learns from nothing else.

    The published AC results come from a network that was never reset (its initial weights were kept by reference), in
    steps of two random batches of exemplars: `reset=False` and `joined=True`, with `memory.rounding` up.

    Args:
        cutmix: share of the steps that mix images.
        reset: whether each task begins with the initial weights, or goes on from those of the previous task.
        joined: whether each step learns from a second, independent draw of as many exemplars too.
    """

    family = "replay"
    memory_use = "required"
    copes_with = frozenset({"repeated classes"})

    def __init__(self, cutmix: float = 0.5, reset: bool = True, joined: bool = False):
        super().__init__()
        if not 0 <= cutmix <= 1:
            raise ConfigurationError(f"GDumb.cutmix is {cutmix}; it must be from 0 to 1")
        self.cutmix, self.reset, self.joined = cutmix, reset, joined
        self.needs_images = "mixes images (approach.cutmix is not 0)" if cutmix else None
        # No teacher of anything: the frozen copy that is saved and restored keeps the initial weights.
        self.initial = Teacher()

    def begin_task(self, task, network, trainer) -> None:
        self.memory.update(task.train, trainer.generator("exemplars", task.index), network, trainer)
        if not self.reset:
            return
        if task.is_first:
            self.initial.update(network)
        else:
            # Rows of a task have one stream of initial values: the copy grows the rows that `network` has grown.
            self.initial.network.grow(task.num_classes, trainer.seed)
            network.load_state_dict(self.initial.network.state_dict())

    def training_set(self, task: Task) -> TrainingSet:
        exemplars = self.memory.samples
        return TrainingSet(exemplars, task, exemplars, replay=(None,)) if self.joined else TrainingSet(exemplars, task)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        parts = [batch, *batch.replay]
        targets = torch.cat([part.targets for part in parts])
        images, partner, kept = cutmix(torch.cat([part.images for part in parts]), self.cutmix)
        logits, classes = network(images), batch.task.seen_classes
        own = cross_entropy(logits, targets, classes)
        return kept * own + (1 - kept) * cross_entropy(logits, targets[partner], classes)

    def choose_exemplars(self, task, network, trainer) -> None:
        """Chooses none: they were chosen before training."""


def cutmix(images: Tensor, probability: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pastes one random box of other images of the batch into all images, or, else, leaves them as they are.

    The box takes a uniform share of the area around a uniform centre and is cut off at the borders.

    Args:
        images: [B, channels, height, width].
    Returns:
        The mixed images, the index of each image's partner [B], and the share of the area [] that an image keeps.
    """
    height, width = images.shape[-2:]
    # Drawn on the device: a number on the host would stall each step.
    mixes, area, row, column = torch.rand(4, device=images.device)
    side = area.sqrt() * (mixes < probability)
    inside = [_interval(center, side, length) for center, length in ((row, height), (column, width))]
    box = inside[0][:, None] & inside[1]
    partner = torch.randperm(len(images), device=images.device)
    return torch.where(box, images[partner], images), partner, 1 - box.float().mean()


def _interval(center: Tensor, side: Tensor, length: int) -> Tensor:
    """Which of `length` pixels lie in an interval of `side · length` pixels around `center · length`: bool [length]."""
    center, pixels = (center * length).floor(), (side * length).floor()
    start, positions = center - (pixels / 2).floor(), torch.arange(length, device=center.device)
    # As in the published code, which takes half of the pixels to either side.
    return (positions >= start) & (positions < center + (pixels / 2).floor())
