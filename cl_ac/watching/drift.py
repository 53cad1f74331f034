"""How far features and classifiers of each exit move from task to task.

Features are what an exit's head reads, flattened, of the same test images of each task after every later task. They are
compared by linear CKA (Kornblith et al., 2019), which needs no more of them than their Gram matrices: those of the
previous network and of the network that had just learned a task are kept, features never.

Shapes: D features, E exits, N images of one task, T tasks seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cl_ac.data.tasks import Task
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer
from cl_ac.watching.watch import balanced

SAMPLES = 256


@dataclass(frozen=True)
class Grams:
    """Centred Gram matrices of the features of each task's images, float32 [E, N, N] each, of norm 1.

    Args:
        now: of the present network, one for each task seen.
        learned: of the network that had just learned the task.
    """

    now: list[Tensor]
    learned: list[Tensor]

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        named = {"now": self.now, "learned": self.learned}
        save_file({f"{name}_{task}": gram for name, grams in named.items() for task, gram in enumerate(grams)}, path)

    @staticmethod
    def load(path: Path) -> "Grams":
        """Reads what `save` wrote."""
        with safe_open(path, "pt") as file:
            tasks = range(len(list(file.keys())) // 2)
            return Grams(*([file.get_tensor(f"{name}_{task}") for task in tasks] for name in ("now", "learned")))


@dataclass(frozen=True)
class Drift:
    """What moved, after one task. In `Drift.of_run`, after each of T tasks: an axis [T] comes first, NaN above.

    Args:
        since_previous: CKA of the features on each task with those before the newest task [T, E]; NaN for the newest.
        since_learned: CKA with those when the task had just been learned [T, E]; 1 for the newest.
        weights: mean norm of the weight rows of each task's classes [E, T].
        biases: mean size of their biases [E, T]; NaN for classifiers without.
    """

    since_previous: Tensor
    since_learned: Tensor
    weights: Tensor
    biases: Tensor

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        save_file({name: value.contiguous() for name, value in vars(self).items()}, path)

    @staticmethod
    def load(path: Path) -> "Drift":
        """Reads what `save` wrote."""
        with safe_open(path, "pt") as file:
            return Drift(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    @staticmethod
    def of_run(drifts: Sequence["Drift"]) -> "Drift":
        """The drifts after each of T tasks together: CKA [T, T, E], norms [T, E, T], NaN for tasks not yet seen."""

        def stack(name: str, axis: int) -> Tensor:
            values = [getattr(drift, name).movedim(axis, 0) for drift in drifts]
            padded = torch.full((len(drifts), *values[-1].shape), torch.nan)
            for index, value in enumerate(values):
                padded[index, : len(value)] = value
            return padded.movedim(1, axis + 1)

        return Drift(stack("since_previous", 0), stack("since_learned", 0), stack("weights", 1), stack("biases", 1))


def centred_gram(features: Tensor) -> Tensor:
    """`H X Xᵀ H`, of norm 1, of features X [N, D], computed in float64: [N, N]; NaN if they do not differ."""
    centred = features.double() - features.double().mean(0)
    gram = centred @ centred.T
    return gram / gram.norm()


def linear_cka(first: Tensor, second: Tensor) -> Tensor:
    """Linear CKA [...] of two `centred_gram` [..., N, N] over the same images: 1 for the same features, rotated or
    scaled at most; 0 for features without linear relation."""
    return (first.double() * second.double()).sum((-2, -1))


def class_norms(network: ExitNetwork) -> tuple[Tensor, Tensor]:
    """Mean norm of the weight rows, and mean size of the biases, of the classes of each task at each exit [E, T]."""

    def by_task(values: Tensor) -> Tensor:
        per_class = values.detach().float().cpu().unflatten(0, (network.num_classes, -1)).mean(1)
        return torch.stack([part.mean() for part in per_class.split(network.sizes)])

    classifiers = [head.classifier for head in network.heads]
    weights = torch.stack([by_task(classifier.weight.norm(dim=1)) for classifier in classifiers])
    nothing = torch.full_like(weights[0], torch.nan)
    biases = [by_task(c.bias.abs()) if hasattr(c, "bias") else nothing for c in classifiers]
    return weights, torch.stack(biases)


def measure(task: Task, network: ExitNetwork, trainer: Trainer, before: Grams | None) -> tuple[Drift, Grams]:
    """The drift after `task`.

    Args:
        before: what `measure` returned after the previous task; None after the first.
    """
    now = [_grams(earlier, network, trainer) for earlier in task.history()]
    previous, learned = ([], []) if before is None else (before.now, before.learned)
    # Cloned: the file format takes no tensor twice.
    learned = [*learned, now[-1].clone()]
    newest = torch.full((1, len(network)), torch.nan)
    compared = [linear_cka(old, new)[None].float() for old, new in zip(previous, now, strict=False)]
    since_learned = torch.stack([linear_cka(old, new).float() for old, new in zip(learned, now, strict=True)])
    return Drift(torch.cat([*compared, newest]), since_learned, *class_norms(network)), Grams(now, learned)


def _grams(task: Task, network: ExitNetwork, trainer: Trainer) -> Tensor:
    """[E, N, N] of a fixed share of the task's test images."""
    chosen = balanced(task.test.targets, SAMPLES, trainer.generator("drift samples", task.index))
    hidden = trainer.predict(network, task.test.select(chosen), lambda images: _flat(network.hidden(images)))
    return torch.stack([centred_gram(features).float() for features in hidden])


def _flat(hidden: Sequence[Tensor]) -> list[Tensor]:
    return [value.flatten(1) for value in hidden]
