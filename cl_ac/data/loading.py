"""From samples to augmented batches on the training device.

What fits is one uint8 tensor on the device, indexed and augmented in batches; what does not fit is decoded by
worker processes. Both come out of the same interface. The order and the windows of a whole epoch are drawn at
once, so that a step costs no random numbers and no copies from the host.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.batches import Batch, TrainingSet
from cl_ac.data.recognised import Recall, Recognised, image_keys
from cl_ac.data.samples import Images, Samples
from cl_ac.data.tasks import Task
from cl_ac.errors import DataError

Stored = Callable[[], Tensor]


def _itself(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class Drawn:
    """What an augmentation does to some images.

    Args:
        augmentation: how they become inputs.
        windows: what it drew for each, on the device; None if nothing is random.
        repeats: whether the same images become the same inputs again.
        names: of the windows, where they are fixed, to recognise them by.
    """

    augmentation: Augmentation
    windows: Tensor | None
    repeats: bool
    names: Sequence[Hashable] = ()

    def part(self, here: slice) -> "Drawn":
        """What it does to the images at `here`."""
        return replace(self, windows=None if self.windows is None else self.windows[here], names=self.names[here])

    def apply(self, images: Tensor) -> Tensor:
        """The inputs that images become."""
        return self.augmentation.apply(images, self.windows)


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
        recall: what is known of images that come again; None to recognise none.
    """

    def __init__(
        self,
        samples: Samples,
        augmentation: Augmentation,
        device: torch.device,
        workers: int = 0,
        recall: Recall | None = None,
    ):
        self.samples = samples.to(device)
        self.augmentation, self.device, self.workers = augmentation, device, workers
        self.recall, self.keys = recall, image_keys(self.samples.images) if recall else None

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
        fixed: torch.Generator | None = None,
        with_stored: bool = False,
    ) -> Iterator[Batch]:
        """`count` augmented samples in random order; the last batch may be smaller. Endless empty batches if empty.

        Args:
            views: changes to the augmentation for each further view of the images.
            fixed: what windows are drawn from, one for each image, so that the same stream gives the same images;
                None draws them anew in the order of the images.
            with_stored: whether batches bring the images as they are stored too.
        """
        order = self.order(count, generator)
        changed = (replace(self.augmentation, **changes) for changes in views)
        drawn = [self._drawn(each, order, generator, fixed) for each in (self.augmentation, *changed)]
        yield from self._batches(order, drawn, batch_size, task, with_stored)
        while not len(self):
            yield from self._batches(order, drawn, batch_size, task)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """The evaluation inputs of all samples, in order."""
        if not len(self):
            return
        parts = torch.arange(len(self)).split(batch_size)
        if isinstance(self.samples.images, Tensor):
            stored: Iterable[Stored] = map(partial(partial, _itself), self.samples.images.split(batch_size))
        else:
            stored = self._stored(parts)
        for part, images in zip(parts, stored, strict=True):
            yield self._inputs(part, images, Drawn(self.augmentation, None, repeats=True))

    def _stored(self, parts: Sequence[Tensor]) -> Iterator[Stored]:
        """For each part what gives the images at the indices in it; those that are known are not decoded before."""
        known = [self._known(part) for part in parts]
        decoded = self._decoded(part for part, is_known in zip(parts, known, strict=True) if not is_known)
        for part, is_known in zip(parts, known, strict=True):
            yield partial(self._decoded_here, part) if is_known else partial(_itself, next(decoded))

    def _known(self, part: Tensor) -> bool:
        keys = self.keys
        return self.recall is not None and keys is not None and self.recall.knows([keys[i] for i in part.tolist()])

    def _decoded_here(self, part: Tensor) -> Tensor:
        return self.samples.images[part].to(self.device)

    def _inputs(self, part: Tensor, stored: Stored, drawn: Drawn) -> Tensor:
        """The inputs that images at the indices `part` (on the CPU) become; those that come again may be known."""
        if self.recall is None or self.keys is None or not drawn.repeats:
            return drawn.apply(stored())
        keys: list[Hashable] = [self.keys[index] for index in part.tolist()]
        keys = list(zip(keys, drawn.names, strict=True)) if drawn.names else keys
        shape = len(keys), *drawn.augmentation.output_shape(self.samples.images.shape[1:])
        kind = repr(drawn.augmentation)
        return Recognised(shape, self.device, self.recall, kind, keys, lambda: drawn.apply(stored()))

    def _drawn(
        self, augmentation: Augmentation, order: Tensor, generator: torch.Generator, fixed: torch.Generator | None
    ) -> Drawn:
        """An augmentation and its draws for the images at the indices `order`."""
        height, width = self.samples.images.shape[-2:]
        windows = augmentation.draw(len(self) if fixed else len(order), height, width, generator=fixed or generator)
        if windows is None:
            return Drawn(augmentation, None, repeats=True)
        windows = windows[order] if fixed else windows
        names = [tuple(row) for row in windows.tolist()] if fixed and self.keys else ()
        return Drawn(augmentation, windows.to(self.device, non_blocking=True), bool(fixed), names)

    def _batches(
        self, order: Tensor, drawn: Sequence[Drawn], batch_size: int, task: Task, with_stored: bool = False
    ) -> Iterator[Batch]:
        """Batches of the samples at the indices `order`, with one view for each augmentation and its draws."""
        on_device, parts = order.to(self.device, non_blocking=True), order.split(batch_size)
        if self.samples.resident:
            stored: Iterable[Stored] = map(
                partial(partial, self.samples.images.__getitem__), on_device.split(batch_size)
            )
        else:
            stored = self._stored(parts)
        start = 0
        for part, images in zip(parts, stored, strict=True):
            here = slice(start, start + len(part))
            start += len(part)
            chosen = on_device[here]
            once = cache(images)
            inputs, *views = (self._inputs(part, once, each.part(here)) for each in drawn)
            extras = {name: value[chosen] for name, value in self.samples.extras.items()}
            targets = self.samples.targets[chosen]
            incoming = Samples(once(), targets, extras) if with_stored else None
            yield Batch(inputs, targets, task, extras, views=tuple(views), incoming=incoming)

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
        fixed_views: how many views of each image are drawn and shown in turn; 0 draws new ones in every epoch.
        iterations: steps that learn from each batch of samples, each with exemplars of its own.
    """

    def __init__(
        self,
        data: TrainingSet,
        batch_size: int,
        loader: Callable[[Samples], Loader],
        stream: Callable[..., torch.Generator],
        draws: Callable[..., torch.Generator],
        fixed_views: int = 0,
        iterations: int = 1,
    ):
        self.fixed_views, self.iterations, self.loader = fixed_views, iterations, loader
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
        arriving = -(-count // size)
        steps = arriving * self.iterations
        view = epoch % self.fixed_views if self.fixed_views else None

        def drawn(index: int, loader: Loader, amount: int, total: int, with_stored: bool = False) -> Iterator[Batch]:
            fixed = None if view is None else self.stream(task.index, view, index, 1)
            order = self.stream(task.index, epoch, index)
            return loader.shuffled(amount, total, order, task, self.data.views, fixed, with_stored)

        takes_up = self.data.live and epoch == 0
        new = itertools.islice(drawn(0, self.new, size, count, takes_up), arriving)
        amounts = [amount or size for amount in self.data.replay]
        if self.data.live:
            replays: list[Iterator[Batch]] = [self._live(n, amount, epoch) for n, amount in enumerate(amounts, 1)]
        else:
            replays = [drawn(n, self.exemplars, amount, steps * amount) for n, amount in enumerate(amounts, 1)]
        again = ((batch, last) for batch in new for last in [*[False] * (self.iterations - 1), True])
        for step, ((batch, last), *replay) in enumerate(zip(again, *replays, strict=False)):
            draws = partial(self.draws, task.index, epoch, step)
            place = {"epoch": epoch, "epochs": epochs, "step": step, "steps": steps, "stream": draws}
            yield replace(batch, replay=tuple(replay), incoming=batch.incoming if last else None, **place)

    def _live(self, index: int, amount: int, epoch: int) -> Iterator[Batch]:
        """Draws of `amount` exemplars, or of all if there are fewer, each from what there is by then."""
        task = self.data.task
        for step in itertools.count():
            loader = self.loader(self.data.exemplars)
            count = min(amount, len(loader))
            order = self.stream(task.index, epoch, index, 2, step)
            yield next(loader.shuffled(amount, count, order, task, self.data.views))
