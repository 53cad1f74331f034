"""EASE: an adapter for each task, whose features are joined; old classes are placed in new subspaces by likeness."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.backbones.branching import channel_axis, make_branching
from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.prototypes import placed
from cl_ac.data.copying import seen_again
from cl_ac.data.layouts import Layout
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.tuning.adapters import add_adapters
from cl_ac.tuning.bank import banks, draw_next, use
from cl_ac.tuning.side_by_side import side_by_side


class EASE(Approach):
    """Expandable subspace ensemble (Zhou et al., 2024, EASE), for a pretrained backbone, which stays as it is.

    Each task trains adapters of its own by the cross-entropy over its classes; T tasks answer with T passes, of which
    every exit joins the features. A class is the mean of its features in the subspaces of its task and earlier ones;
    in that of a later task n it is `Σ_j softmax_j(cos(p_c, p_j)) p_j,n`, over the classes j of task n, whose likeness
    to it is taken in the subspace of its own task. Its score is the cosine in its own subspace and `reweight` times
    the mean cosine in the others.

    Args:
        width: of adapters, beside each feed-forward network, or beside each larger convolution of a backbone without
            any.
        scale: factor on what adapters add.
        dropout: share of an adapter's narrow values that training zeroes.
        reweight: α, how much the subspaces of other tasks count.
    """

    family = "tuning"
    memory_use = "none"
    adds_features = True

    def __init__(self, width: int = 64, scale: float = 0.1, dropout: float = 0.1, reweight: float = 0.1):
        super().__init__()
        if reweight < 0:
            raise ConfigurationError(f"approach.reweight is {reweight:g}; it must be at least 0")
        self.width, self.scale, self.dropout, self.reweight = width, scale, dropout, reweight

    def inference_classifier(self) -> Classifier:
        return SubspaceMeans(self.reweight)

    def prepare(self, backbone) -> None:
        make_branching(backbone)
        backbone.freeze("all")
        add_adapters(backbone, self.width, self.scale, self.dropout)

    def expand(self, task, network, trainer) -> None:
        draw_next(network, task.index, lambda index: trainer.generator("adapters", task.index, index))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        return cross_entropy(network(batch.images), batch.targets, batch.task.classes)

    def inference_network(self, network: ExitNetwork) -> ExitNetwork:
        subspaces = []
        for task in range(len(banks(network)[0])):
            subspaces.append(seen_again(network))
            use(subspaces[-1], {task: 1.0})
        return side_by_side(subspaces)


class SubspaceMeans(Classifier):
    """Class means in the subspaces of all tasks (T), as `EASE` describes it: sums of cosines over a temperature.

    Args:
        reweight: how much the subspaces of other tasks count.
        temperature: changes no exit's answers but their confidence.
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    def __init__(self, reweight: float = 0.1, temperature: float = 0.05, **reading):
        super().__init__(**reading)
        self.reweight, self.temperature = reweight, temperature
        self.register_buffer("trust", torch.empty(0, 0))  # of each class in each subspace [C, T]

    def fit(self, task, network, trainer, memory) -> None:
        subspaces, sizes = torch.arange(len(task.sizes)), torch.tensor(task.sizes)
        is_own = subspaces.repeat_interleave(sizes)[:, None] == subspaces
        others = self.reweight / max(len(sizes) - 1, 1)
        self.trust = torch.where(is_own, 1.0, others).to(trainer.device)
        totals: list[Tensor] = []
        counts = torch.zeros(task.num_classes, 1, 1, device=trainer.device)
        for features, targets in self.passes(network, task.train.without_extras(), trainer):
            members = F.one_hot(targets - task.classes.start, task.num_classes).float().T  # [new classes, B]
            counts += members.sum(1)[:, None, None]
            added = [members @ part for part in features]
            totals = [total + part for total, part in zip(totals, added, strict=True)] if totals else added
        for index, total in enumerate(totals):
            new = total.unflatten(1, (len(sizes), -1)) / counts.clamp(min=1)
            earlier = getattr(self, f"means_{index}", new[:0, :-1])
            means = torch.cat([F.pad(earlier, (0, 0, 0, 1)), new])
            self.register_buffer(f"means_{index}", placed(means, task.sizes))

    def vector(self, hidden: Tensor, layout: Layout) -> Tensor:
        read = super().vector
        return torch.cat([read(part, layout) for part in hidden.chunk(self.trust.shape[1], channel_axis(layout))], 1)

    def score(self, index, features) -> Tensor:
        means = getattr(self, f"means_{index}")
        parts = F.normalize(features.unflatten(1, means.shape[1:]), dim=-1)
        cosines = torch.einsum("btd,ctd->bct", parts, F.normalize(means, dim=-1))
        return (self.trust * cosines).sum(-1) / self.temperature
