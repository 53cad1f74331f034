"""Any benchmark of Avalanche (Carta et al., 2023), read once into tensors."""

from collections.abc import Iterable
from functools import cached_property
from pkgutil import resolve_name
from typing import Any, Literal
from urllib.error import URLError

import torch
from torch import Tensor

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError, DataError, told
from cl_ac.streams.stream import Split


class AvalancheBenchmark(Benchmark):
    """A benchmark that Avalanche builds, with its own tasks and order of classes.

    Avalanche's transforms are left out: images are taken as they are stored, and augmented like all others here. Its
    classic benchmarks download their data unasked.

    Args:
        factory: dotted path of the function that builds it, e.g. `avalanche.benchmarks.classic.SplitCIFAR100`.
        arguments: what the function is called with. Where it draws without a seed of its own, it draws the same
            each time.
        augmentation: how images become inputs of the network.
        validation: share of each class's training images that is held out; `test` validates on the test images.
        samples_per_class: use at most so many training images of a class.
        test_samples_per_class: use at most so many test images of a class.
        evaluate_on: the images that accuracy is reported on, `test` or the held-out ones, `validation`.
    """

    def __init__(
        self,
        factory: str,
        arguments: dict[str, Any] | None = None,
        augmentation: Augmentation = Augmentation(),
        validation: float | Literal["test"] = 0.1,
        samples_per_class: int | None = None,
        test_samples_per_class: int | None = None,
        evaluate_on: Literal["test", "validation"] = "test",
    ):
        super().__init__(
            validation=validation,
            samples_per_class=samples_per_class,
            test_samples_per_class=test_samples_per_class,
            augmentation=augmentation,
            evaluate_on=evaluate_on,
        )
        self.factory, self.arguments = factory, arguments or {}

    @cached_property
    def source(self) -> Any:
        """Avalanche's own object.

        Raises:
            ConfigurationError: if it cannot be built.
            DataError: if its data cannot be downloaded.
        """
        try:
            build = resolve_name(self.factory)
        # A module runs code of its own, which may raise anything.
        except Exception as error:
            raise ConfigurationError(
                f"benchmark.factory '{self.factory}' cannot be imported ({told(error)}); "
                "it must be the dotted path of a function, and Avalanche comes with `pip install avalanche-lib`"
            ) from error
        try:
            with global_stream(0, "avalanche"):
                return build(**self.arguments)
        except Exception as error:
            # Errors about files name one; those about the network, but for answers of a server, do not.
            if isinstance(error, URLError) or (isinstance(error, OSError) and error.filename is None):
                raise DataError(
                    f"benchmark.factory '{self.factory}' cannot download its data ({told(error)}); without network, "
                    "put them where it looks for them (benchmark.arguments, mostly dataset_root)"
                ) from error
            raise ConfigurationError(
                f"benchmark.factory '{self.factory}' cannot build a benchmark from benchmark.arguments "
                f"{self.arguments}: {told(error)}"
            ) from error

    @cached_property
    def labels(self) -> list[list[int]]:
        """Avalanche's labels of the classes in each task.

        Raises:
            ConfigurationError: if a class is in more than one task.
        """
        tasks = [sorted(set(_targets(experience))) for experience in self.source.train_stream]
        labels = [label for task in tasks for label in task]
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise ConfigurationError(
                f"'{self.factory}' has classes in more than one task ({', '.join(map(str, repeated[:10]))}), but only "
                "benchmarks whose tasks bring new classes can be used; where labels start from 0 in every task, "
                "switch that off in benchmark.arguments"
            )
        return tasks

    @property
    def num_classes(self) -> int:
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> list[int]:
        return [len(labels) for labels in self.labels]

    @property
    def class_split(self) -> Split:
        return Split(self.num_classes, len(self.sizes), classes_per_task=self.sizes)

    @cached_property
    def class_order(self) -> list[int]:
        """Labels are Avalanche's, without gaps: the rank of each among all that occur."""
        return [self._ranks[label] for task in self.labels for label in task]

    @cached_property
    def _ranks(self) -> dict[int, int]:
        return {label: rank for rank, label in enumerate(sorted(label for task in self.labels for label in task))}

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = _image(_stored(self.source.train_stream[0])[0][0]).shape
        return channels, height, width

    def load(self) -> tuple[Samples, Samples]:
        """All images of the training and of the test stream as resident tensors.

        Raises:
            DataError: if they are no images of one size, or test images are of classes that are never trained.
        """
        return self._read(self.source.train_stream), self._read(self.source.test_stream)

    def _read(self, stream: Iterable[Any]) -> Samples:
        images, targets = [], []
        for experience in stream:
            dataset = _stored(experience)
            images += [_image(dataset[index][0]) for index in range(len(dataset))]
            targets += _targets(experience)
        strangers = set(targets) - set(self._ranks)
        if strangers:
            raise DataError(f"'{self.factory}' has test images of classes without training images: {strangers}")
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            few = sorted(shapes)[:3]
            raise DataError(f"'{self.factory}' has images of {len(shapes)} shapes, such as {few}; all must be equal")
        return Samples(torch.stack(images), torch.tensor([self._ranks[target] for target in targets]))


def _targets(experience: Any) -> list[int]:
    return [int(target) for target in experience.dataset.targets]


def _stored(experience: Any) -> Any:
    """The experience's data without Avalanche's transforms."""
    return experience.dataset.remove_current_transform_group()


def _image(item: Any) -> Tensor:
    """A stored image as uint8 [channels, height, width].

    Raises:
        DataError: if it is neither a Pillow image, nor a tensor of bytes, nor one of floats in [0, 1].
    """
    if not isinstance(item, Tensor):
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        if not isinstance(item, Image.Image):
            raise DataError(f"Avalanche gives a {type(item).__name__} where an image was expected")
        item = pil_to_tensor(item if item.mode in ("L", "RGB") else item.convert("RGB"))
    if item.ndim == 2:
        item = item[None]
    if item.ndim != 3:
        raise DataError(f"Avalanche gives tensors of shape {list(item.shape)}, which are no images")
    if item.dtype == torch.uint8:
        return item
    if not item.is_floating_point() or item.min() < 0 or item.max() > 1:
        raise DataError(
            f"Avalanche gives images of {item.dtype} from {item.min():.4g} to {item.max():.4g}; "
            "they must be bytes, or floats from 0 to 1 (leave out normalisation, `augmentation` does it)"
        )
    return item.mul(255).round().to(torch.uint8)
