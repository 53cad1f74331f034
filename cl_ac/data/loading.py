"""From samples to augmented batches on the training device.

What fits is one uint8 tensor on the device, indexed and augmented in batches; what does not fit is decoded by
worker processes. Both come out of the same interface. The order and the windows of a whole epoch are drawn at
once, so that a step costs no random numbers and no copies from the host.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.batches import Batch, TrainingSet
from cl_ac.data.samples import Images, Samples
from cl_ac.data.tasks import Task
from cl_ac.errors import DataError


class _Decode(Dataset):
    """Decodes whole batches of indices, in a worker process.

    A file that cannot be read is returned as its error: raised in a worker, it would lose its one clear sentence.
    """

    def __init__(self, images: Images):
        self.images = images

    def __getitem__(self, indices: list[int]) -> Tensor | DataError:
        try:
            return self.images[torch.tensor(indices, dtype=torch.int64)]
        except DataError as error:
            return error


class Loader:
    """Batches of `samples` on `device`.

    Args:
        samples: moved to the device once if they are resident.
        augmentation: how uint8 images become inputs.
        workers: processes that decode images which are not resident.
    """

    def __init__(self, samples: Samples, augmentation: Augmentation, device: torch.device, workers: int = 0):
        self.samples = samples.to(device)
        self.augmentation, self.device, self.workers = augmentation, device, workers

    def __len__(self) -> int:
        return len(self.samples)

    def order(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` sample indices: each sample once in random order, then each once more, and so on."""
        if not len(self):
            return torch.empty(0, dtype=torch.int64)
        rounds = -(-count // len(self))
        return torch.cat([torch.randperm(len(self), generator=generator) for _ in range(rounds)])[:count]

    def shuffled(
        self,
        batch_size: int,
        count: int,
        generator: torch.Generator,
        task: Task,
        views: Sequence[Mapping[str, Any]] = (),
    ) -> Iterator[Batch]:
        """`count` augmented samples in random order; the last batch may be smaller. Endless empty batches if empty.

        Args:
            views: changes to the augmentation for each further view of the images.
        """
        order = self.order(count, generator)
        height, width = self.samples.images.shape[-2:]
        drawn = [
            (each, self._on_device(each.draw(len(order), height, width, generator=generator)))
            for each in (self.augmentation, *(replace(self.augmentation, **changes) for changes in views))
        ]
        yield from self._batches(order, drawn, batch_size, task)
        while not len(self):
            yield from self._batches(order, drawn, batch_size, task)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """The evaluation inputs of all samples, in order."""
        if not len(self):
            return
        if isinstance(self.samples.images, Tensor):
            parts: Iterable[Tensor] = self.samples.images.split(batch_size)
        else:
            parts = self._decoded(torch.arange(len(self)).split(batch_size))
        for images in parts:
            yield self.augmentation.apply(images)

    def _on_device(self, windows: Tensor | None) -> Tensor | None:
        return None if windows is None else windows.to(self.device, non_blocking=True)

    def _batches(
        self, order: Tensor, drawn: Sequence[tuple[Augmentation, Tensor | None]], batch_size: int, task: Task
    ) -> Iterator[Batch]:
        """Batches of the samples at the indices `order`, with one view for each augmentation and its draws."""
        on_device = order.to(self.device, non_blocking=True)
        if self.samples.resident:
            parts: Iterable[Tensor] = (self.samples.images[chosen] for chosen in on_device.split(batch_size))
        else:
            parts = self._decoded(order.split(batch_size))
        start = 0
        for images in parts:
            here = slice(start, start + len(images))
            start += len(images)
            chosen = on_device[here]
            inputs, *views = (
                augmentation.apply(images, None if windows is None else windows[here])
                for augmentation, windows in drawn
            )
            extras = {name: value[chosen] for name, value in self.samples.extras.items()}
            yield Batch(inputs, self.samples.targets[chosen], task, extras, views=tuple(views))

    def _decoded(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images at the indices in each part."""
        loader = DataLoader(
            _Decode(self.samples.images),
            sampler=[part.tolist() for part in parts],
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            # Without a generator of its own, the loader would draw a seed from the global one.
            generator=torch.Generator(),
        )
        for images in loader:
            if isinstance(images, DataError):
                raise images
            yield images.to(self.device, non_blocking=True)


class EpochBatches:
    """The batches of a training set, epoch by epoch, each with its draws from memory.

    Args:
        data: what is iterated over.
        batch_size: of its samples.
        loader: makes batches of samples.
        stream: the random stream with given indices: the task, the epoch, and 0 for the samples, above for each draw.
        draws: the random streams of the loss, with given indices: the task, the epoch, the step, and those of the loss.
    """

    def __init__(
        self,
        data: TrainingSet,
        batch_size: int,
        loader: Callable[[Samples], Loader],
        stream: Callable[..., torch.Generator],
        draws: Callable[..., torch.Generator],
    ):
        self.data, self.batch_size, self.stream, self.draws = data, batch_size, stream, draws
        self.new, self.exemplars = loader(data.samples), loader(data.exemplars)

    def __call__(self, epoch: int, epochs: int) -> Iterator[Batch]:
        """The batches of one epoch of `epochs`."""
        size, count, task = self.batch_size, len(self.data.samples), self.data.task
        if self.data.drop_last and count >= size:
            count -= count % size
        elif count > 1 and count % size == 1:
            # Batch normalisation cannot train on a single sample.
            count -= 1
        steps = -(-count // size)
        loaders = [self.new, *(self.exemplars for _ in self.data.replay)]
        sizes = [size, *(amount or size for amount in self.data.replay)]
        counts = [count, *(steps * amount for amount in sizes[1:])]
        drawn = [
            loader.shuffled(amount, total, self.stream(task.index, epoch, index), task, self.data.views)
            for index, (loader, amount, total) in enumerate(zip(loaders, sizes, counts, strict=True))
        ]
        for step, (batch, *replay) in enumerate(zip(itertools.islice(drawn[0], steps), *drawn[1:], strict=False)):
            draws = partial(self.draws, task.index, epoch, step)
            place = {"epoch": epoch, "epochs": epochs, "step": step, "steps": steps, "stream": draws}
            yield replace(batch, replay=tuple(replay), **place)
