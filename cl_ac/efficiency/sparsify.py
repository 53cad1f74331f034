"""Losses that make the hidden neurons of feed-forward networks (FFNs) sparse while a model trains (D2DMoE, 3.1).

D2DMoE: Szatkowski et al., NeurIPS 2024, arXiv 2310.04361. Shapes: F hidden neurons.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cl_ac.backbones.feed_forward import ADAPTERS, Adapter, find_feed_forwards
from cl_ac.data.batches import Batch, TrainingSet
from cl_ac.efficiency.padding import RealTokens
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork
from cl_ac.training import Loss, Training

SparsityLoss = Literal["none", "hoyer", "l1", "clamped", "clamped_hoyer"]
Schedule = Literal["constant", "linear", "linear_warmup"]


@dataclass(frozen=True)
class Sparsify:
    """How the FFNs of a network are made sparse while it trains.

    `hoyer` and `l1` replace the FFNs' activations by ReLU and make their outputs sparse. The clamped losses keep GELU
    and push what enters it towards `displacement`, where it is 0.

    Args:
        loss: what is added to the loss of the task; with `none` nothing is replaced, recorded or added.
        weight: factor of the added loss at its full strength.
        schedule: `linear` raises the weight from 0 over all steps, `linear_warmup` over the first half of them.
        displacement: below it clamped losses are 0.
    """

    loss: SparsityLoss = "none"
    weight: float = 0.001
    schedule: Schedule = "linear_warmup"
    displacement: float = -10.0

    def __post_init__(self) -> None:
        for name, value, known in (("loss", self.loss, SparsityLoss), ("schedule", self.schedule, Schedule)):
            if value not in get_args(known):
                raise ConfigurationError(
                    f"sparsify.{name} is '{value}'; it must be one of {', '.join(get_args(known))}"
                )
        if self.weight < 0:
            raise ConfigurationError(f"sparsify.weight is {self.weight:g}; it must be at least 0")

    @property
    def enabled(self) -> bool:
        """Whether there is anything to do."""
        return self.loss != "none"

    def weight_at(self, step: int, steps: int) -> float:
        """The weight at `step` (from 0) of `steps`; full afterwards."""
        if self.schedule == "constant" or step >= steps:
            return self.weight
        over = max(steps // 2, 1) if self.schedule == "linear_warmup" else steps
        return self.weight * min(1.0, step / over)

    def of(self, before: Tensor, after: Tensor) -> Tensor:
        """The loss of one FFN, averaged over tokens; only where there is one.

        Args:
            before: what enters the activation [..., F].
            after: what leaves it [..., F].
        """
        if self.loss in ("clamped", "clamped_hoyer"):
            values = before.float().clamp(min=self.displacement) - self.displacement
        else:
            values = after.float()
        return square_hoyer(values) if self.loss.endswith("hoyer") else values.abs().sum(-1).mean()

    def prepare(self, model: nn.Module, adapters: Sequence[Adapter] = ADAPTERS) -> None:
        """Replaces the activations of all FFNs by ReLU, if the loss asks for it.

        Raises:
            ConfigurationError: if there is something to do, but `model` has no FFN.
        """
        if not self.enabled:
            return
        found = find_feed_forwards(model, adapters)
        if not found:
            raise ConfigurationError(
                f"sparsify.loss is '{self.loss}', but {type(model).__name__} has no feed-forward network of a "
                "transformer; use one that has, such as ViT, or sparsify.loss none"
            )
        if self.loss in ("hoyer", "l1"):
            for each in found.values():
                if each.activation != "relu":
                    each.swap_activation(nn.ReLU())


def square_hoyer(values: Tensor) -> Tensor:
    """`‖a‖₁² / ‖a‖₂²`, averaged over tokens: 1 for a single active neuron, F for F equally active ones.

    Args:
        values: [..., F].
    """
    return (values.abs().sum(-1).square() / (values.square().sum(-1) + 1e-15)).mean()


class Sparsity:
    """Records what the FFNs of a model do while the context is open, and gives the loss that makes them sparse.

        with Sparsity(model, Sparsify("hoyer", weight=0.001)) as sparsity:
            for step, batch in enumerate(batches):
                loss = task_loss(model(batch)) + sparsity.loss(step, steps)

    Forward passes without gradient are not recorded, nor are tokens of padding. Does not prepare the model: see
    `Sparsify.prepare`.

    Args:
        model: sees no difference, but for its hooks.
    """

    def __init__(self, model: nn.Module, settings: Sparsify, adapters: Sequence[Adapter] = ADAPTERS):
        found = find_feed_forwards(model, adapters) if settings.enabled else {}
        self.settings, self.activations = settings, [each.activation_module for each in found.values()]
        self.real = RealTokens(model)
        self.recorded: list[Tensor] = []
        self.hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self.real.__enter__()
        self.hooks = [activation.register_forward_hook(self._record) for activation in self.activations]
        return self

    def __exit__(self, *error: Any) -> None:
        self.real.__exit__(*error)
        for hook in self.hooks:
            hook.remove()
        self.hooks, self.recorded = [], []

    def _record(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.recorded.append(self.settings.of(self.real.only(inputs[0]), self.real.only(output)))

    def loss(self, step: int, steps: int) -> Tensor | float:
        """The weighted loss, averaged over FFNs, of all forward passes since it was last asked for; 0 after none."""
        if not self.recorded:
            return 0.0
        mean = torch.stack(self.recorded).mean()
        self.recorded = []
        return self.settings.weight_at(step, steps) * mean


class SparsifiedLoss:
    """The loss of an approach with a sparsity loss added, for `Trainer.fit`.

    The sparsity loss is added to the final exit's value, whose weight is always 1: the exits' weights leave it as it
    is. Hooks exist only inside each call, so that no teacher is ever copied with them.

    Args:
        loss: one value per exit [E].
        settings: of the sparsity loss.
        steps: over which its weight rises.
        step: steps done before, where a fit goes on.
    """

    def __init__(self, loss: Loss, settings: Sparsify, steps: int, step: int = 0):
        self.task_loss, self.settings, self.steps, self.step = loss, settings, steps, step
        self.recorder: Sparsity | None = None
        self.network: ExitNetwork | None = None

    def __call__(self, network: ExitNetwork, batch: Batch) -> Tensor:
        if self.recorder is None or network is not self.network:
            self.recorder, self.network = Sparsity(network, self.settings), network
        with self.recorder:
            losses = self.task_loss(network, batch)
            added = self.recorder.loss(self.step, self.steps)
        self.step += 1
        return torch.cat([losses[:-1], losses[-1:] + added])


def sparsified(loss: Loss, settings: Sparsify, data: TrainingSet, training: Training, step: int = 0) -> Loss:
    """The loss of an approach on one task, with the sparsity loss added if there is one.

    The weight rises during the first task, and has its full value in all later ones: what is sparse stays so.

    Args:
        step: steps done on this task before, where a run goes on.
    """
    if not settings.enabled:
        return loss
    per_epoch = -(-len(data.samples) // training.batch_size_of(data.task.index))
    steps = training.epochs_of(0) * per_epoch if data.task.is_first else 0
    return SparsifiedLoss(loss, settings, steps, step)


@dataclass(frozen=True)
class Counts:
    """How sparse hidden activations are: shares of them, in [0, 1].

    Args:
        zero: exactly 0.
        negligible: at most a millionth of the token's largest.
        below: by the power of ten k from 1 to 4: below the token's largest / 10^k.
        tokens: number of tokens.
    """

    zero: float
    negligible: float
    below: tuple[float, ...]
    tokens: int


def count_sparsity(hidden: Iterable[Tensor]) -> Counts:
    """Counts over batches of hidden activations [..., F]; a token of zeros counts as sparse in every sense."""
    totals, entries, tokens = torch.zeros(6, dtype=torch.float64), 0, 0
    for batch in hidden:
        sizes = batch.detach().abs().double().flatten(0, -2)
        largest = sizes.amax(-1, keepdim=True)
        dead = largest == 0
        shares = [sizes == 0, sizes <= 1e-6 * largest, *((sizes < largest / 10**k) | dead for k in range(1, 5))]
        totals += torch.stack([share.sum() for share in shares]).cpu()
        entries, tokens = entries + sizes.numel(), tokens + len(sizes)
    zero, negligible, *below = (totals / max(entries, 1)).tolist()
    return Counts(zero, negligible, tuple(below), tokens)
