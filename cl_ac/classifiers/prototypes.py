"""Prototypes: what methods without exemplars keep of each class, and replay through the heads in place of its images.

They live in what `network.reduce` gives, in which linear heads are linear. Shapes: E exits, B batch, C classes kept,
R directions, `...` what one exit's head reads of an image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.data.batches import Batch
from cl_ac.data.growing import Growing
from cl_ac.data.tasks import Task, task_slices
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer


def reduced(network: ExitNetwork, images: Tensor) -> list[Tensor]:
    """What each exit's head reads of images: E tensors [B, ...]."""
    return network.reduce(network.hidden(images))


def reduced_sizes(network: ExitNetwork) -> list[int]:
    """How many numbers each exit's head reads of an image [E]."""
    shapes = zip(network.heads, network.shapes, strict=True)
    return [head.reduce(torch.zeros(1, *shape, device=network.device)).numel() for head, shape in shapes]


def linear_logits(network: ExitNetwork, values: Sequence[Tensor]) -> Tensor:
    """Logits [E, B, C] of what `reduced` gave, of each head alone: a cascade of heads would not be linear."""
    # In float32 under autocast too: small differences of them tell how far features have moved.
    with torch.autocast(values[0].device.type, enabled=False):
        return torch.stack([head.alone(value.float()) for head, value in zip(network.heads, values, strict=True)])


class Prototypes(Growing):
    """The mean and the spread of each class at every exit, taken once, without augmentation.

    A class without images has none and is never drawn.

    Args:
        rank: leading directions of each class's covariance that are kept, R; 0 keeps only its mean variance. All of the
            covariance is kept where an exit has no more than R features, or a class no more than R images.
    """

    def __init__(self, rank: int = 0):
        super().__init__()
        self.rank = rank
        self.register_buffer("targets", torch.empty(0, dtype=torch.int64))
        # The trace of the covariance over the number of features: [E, C].
        self.register_buffer("variances", torch.empty(0, 0))

    def __len__(self) -> int:
        """C."""
        return len(self.targets)

    @property
    def means(self) -> list[Tensor]:
        """E tensors [C, ...]."""
        return [getattr(self, f"means_{index}") for index in range(len(self.variances))]

    @property
    def directions(self) -> list[Tensor]:
        """Rows D of which `DᵀD` is a class's covariance: E tensors [C, R, ...]."""
        return [getattr(self, f"directions_{index}") for index in range(len(self.variances))]

    @torch.no_grad()
    def add(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Takes the prototypes of the classes of `task`, as the network now sees them."""
        targets: list[int] = []
        found: list[list[tuple[Tensor, Tensor, float]]] = [[] for _ in range(len(network))]
        # One class at a time: the features of a whole task may not fit in memory.
        for target in range(task.classes.start, task.classes.stop):
            members = (task.train.targets == target).nonzero()[:, 0]
            if len(members):
                samples = task.train.without_extras().select(members)
                values = trainer.predict(network, samples, lambda images: reduced(network, images))
                targets.append(target)
                for each, value in zip(found, values, strict=True):
                    each.append(statistics(value, self.rank))
        device = trainer.device
        self.targets = torch.cat([self.targets, torch.tensor(targets, dtype=torch.int64, device=device)])
        for index, classes in enumerate(found):
            self._append(f"means_{index}", torch.stack([mean for mean, _, _ in classes]).to(device))
            self._append(f"directions_{index}", torch.stack([rows for _, rows, _ in classes]).to(device))
        variances = torch.tensor([[variance for _, _, variance in classes] for classes in found], device=device)
        self.variances = torch.cat([self.variances, variances], 1) if self.variances.numel() else variances

    def _append(self, name: str, values: Tensor) -> None:
        earlier = getattr(self, name, values[:0])
        self.register_buffer(name, torch.cat([earlier, values]))

    def move(self, drifts: Sequence[Tensor]) -> None:
        """Adds to the means what there is for each of them, E tensors [C, ...]."""
        for means, drift in zip(self.means, drifts, strict=True):
            means += drift

    def draw(self, count: int, batch: Batch) -> Tensor:
        """Indices [count] of prototypes, uniformly drawn for the step that `batch` belongs to."""
        drawn = torch.randint(len(self), (count,), generator=batch.stream(0))
        return drawn.to(self.targets.device, non_blocking=True)

    def at(self, chosen: Tensor) -> list[Tensor]:
        """The means at the indices `chosen` [B]: E tensors [B, ...]."""
        return [means[chosen] for means in self.means]

    @torch.no_grad()
    def likeness(self, values: Sequence[Tensor]) -> Tensor:
        """The largest cosine of each sample with a mean [E, B], for E tensors [B, ...]."""
        pairs = (
            (F.normalize(each.float().flatten(1)) for each in pair) for pair in zip(values, self.means, strict=True)
        )
        # In float32 under autocast too: half precision does not tell cosines near 1 apart.
        with torch.autocast(values[0].device.type, enabled=False):
            return torch.stack([(value @ means.T).amax(1) for value, means in pairs])

    def spherical(self, chosen: Tensor, radius: Tensor, batch: Batch) -> list[Tensor]:
        """Means at `chosen` with normal noise, `radius` [E] its deviation at each exit: E tensors [B, ...]."""
        noise = self._noise([means.shape[1:] for means in self.means], len(chosen), batch, 1)
        return [mean + r * each for mean, r, each in zip(self.at(chosen), radius, noise, strict=True)]

    def gaussian(self, chosen: Tensor, jitter: float, batch: Batch) -> list[Tensor]:
        """Samples of the classes at `chosen`, with `jitter` added to the variance of every feature: E tensors [B, ...].

        The covariance is what `directions` keep of it.
        """
        spherical = self.spherical(chosen, torch.full_like(self.variances[:, 0], jitter**0.5), batch)
        weights = self._noise([torch.Size([self.rank])] * len(spherical), len(chosen), batch, 2)
        return [
            value + torch.einsum("br,br...->b...", weight, directions[chosen])
            for value, weight, directions in zip(spherical, weights, self.directions, strict=True)
        ]

    def _noise(self, shapes: Sequence[torch.Size], count: int, batch: Batch, use: int) -> list[Tensor]:
        """Normal noise [count, *shape] for each exit, another for each `use`; the final exit draws the same whatever
        ACs there are."""
        last, device = len(shapes) - 1, self.targets.device
        return [
            torch.randn(count, *shape, generator=batch.stream(use, last - index)).to(device, non_blocking=True)
            for index, shape in enumerate(shapes)
        ]


def statistics(values: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Mean [...], leading directions [rank, ...] of the covariance and its mean variance, of values [N, ...].

    Directions that there are not are zero.
    """
    flat = values.double().flatten(1)
    count, features = flat.shape
    mean = flat.mean(0)
    centred = (flat - mean) / max(count - 1, 1) ** 0.5
    directions = torch.zeros(rank, features, dtype=flat.dtype)
    if rank:
        # Of the two products with the same eigenvalues, the smaller one.
        if count < features:
            rows = torch.linalg.eigh(centred @ centred.T)[1].T @ centred
        else:
            eigenvalues, vectors = torch.linalg.eigh(centred.T @ centred)
            rows = eigenvalues.clamp(min=0).sqrt()[:, None] * vectors.T
        leading = rows.flip(0)[:rank]
        directions[: len(leading)] = leading
    shape = values.shape[1:]
    variance = centred.square().sum().item() / features
    return mean.view(shape).float(), directions.view(rank, *shape).float(), variance


def placed(means: Tensor, sizes: Sequence[int]) -> Tensor:
    """Class means [C, T, D] in the subspaces of all tasks, where those of tasks after a class's own are made of the
    classes of these tasks (Zhou et al., 2024, EASE).

    Args:
        means: what is in the places of later tasks does not matter.
        sizes: classes of each task [T].
    """
    means, tasks = means.clone(), task_slices(sizes)
    for new, rows in enumerate(tasks):
        for old, earlier in enumerate(tasks[:new]):
            likeness = F.normalize(means[earlier, old], dim=-1) @ F.normalize(means[rows, old], dim=-1).T
            means[earlier, new] = likeness.softmax(-1) @ means[rows, new]
    return means
