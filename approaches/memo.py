"""MEMO: each task adds a copy of the last, specialised stages on top of shared ones."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.backbones.branching import (
    branch,
    branches_at,
    last_resolution,
    make_branching,
    newest_features,
    newest_widths,
    shared_stages,
)
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.heads import ExitLinears, align
from cl_ac.losses import auxiliary_cross_entropy, cross_entropy


class MEMO(Approach):
    """Memory-efficient expandable model (Zhou et al., 2023).

    Each task after the first adds a copy of the newest specialised stages, which learns while the earlier ones are
    frozen; the shallow stages are shared. Exits behind specialised stages read the features of all copies and have an
    auxiliary head on the new features, which tells the new classes apart, with one more class for all old ones. After
    the task the rows of new classes are aligned to the length of old ones (Zhao et al., 2020), at every exit.

    Args:
        branch_from: the first specialised stage; None for the last group of stages that work at one resolution, or, of
            a backbone whose maps never shrink, the last stage with weights.
        auxiliary: weight of the auxiliary heads' loss.
        train_shared: whether the shared stages go on learning, under the frozen copies of earlier tasks, which then
            read features that they were not trained on; else they are frozen after the first task.
    """

    family = "expansion"
    memory_use = "required"
    adds_features = True

    def __init__(self, branch_from: str | None = None, auxiliary: float = 1.0, train_shared: bool = True):
        super().__init__()
        if auxiliary < 0:
            raise ConfigurationError(f"MEMO.auxiliary is {auxiliary:g}; it must be at least 0")
        self.branch_from, self.auxiliary, self.train_shared = branch_from, auxiliary, train_shared
        self.auxiliary_heads = ExitLinears()

    def prepare(self, backbone) -> None:
        names = backbone.stage_names
        if self.branch_from is not None and self.branch_from not in names:
            raise ConfigurationError(unknown("stage in MEMO.branch_from", self.branch_from, names))
        first = last_resolution(backbone) if self.branch_from is None else names.index(self.branch_from)
        make_branching(backbone, first)

    def expand(self, task, network, trainer) -> None:
        if not task.is_first:
            branch(network, trainer.seed)

    def begin_task(self, task, network, trainer) -> None:
        if not task.is_first:
            draws = partial(trainer.generator, "auxiliary head", task.index)
            widths = newest_widths(network)[self.shared_exits(network) :]
            self.auxiliary_heads.build(widths, 1 + task.num_classes, draws, network.device)

    def shared_exits(self, network: ExitNetwork) -> int:
        """How many exits hang at shared stages; they come first."""
        return branches_at(network).count(1)

    def learns(self, network: ExitNetwork):
        stages = [] if self.train_shared or branches_at(network)[-1] == 1 else shared_stages(network)
        fixed = {parameter for stage in stages for parameter in stage.parameters()}
        return [*(p for p in network.parameters() if p not in fixed), *self.auxiliary_heads.parameters()]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        task = batch.task
        if not (task.is_first or self.train_shared):
            for stage in shared_stages(network):
                stage.eval().requires_grad_(False)
        hidden = network.hidden(batch.images)
        loss = cross_entropy(network.classify(hidden), batch.targets)
        if task.is_first:
            return loss
        shared = self.shared_exits(network)
        outputs = self.auxiliary_heads(newest_features(network, network.read(hidden))[shared:])
        auxiliary = auxiliary_cross_entropy(outputs, batch.targets, task.classes)
        return loss + self.auxiliary * F.pad(auxiliary, (shared, 0))

    def end_task(self, task, network, trainer) -> None:
        self.auxiliary_heads = ExitLinears()  # of no more use
        if not task.is_first:
            for head in network.heads:
                align(head.classifier)
