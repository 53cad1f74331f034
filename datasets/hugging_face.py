"""Any data set of the Hugging Face Hub that has images and labels."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.decoding import pixels
from cl_ac.data.samples import Samples, UnreadImages
from cl_ac.datasets.image_files import drawn_apart
from cl_ac.datasets.unread_set import UnreadSet
from cl_ac.errors import ConfigurationError, DataError, told, unknown


@dataclass(frozen=True)
class Pictures(UnreadImages):
    """The pictures in a column of a table of the library `datasets`, as bytes of one shape.

    Args:
        rows: the table, `datasets.Dataset`, of that column only.
        column: its name.
        frame: channels, height and width; pictures of other sizes are resized to fill it.
    """

    rows: Any
    column: str
    frame: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.frame)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        images = torch.empty(len(indices), *self.frame, dtype=torch.uint8)
        for image, index in zip(images, indices.tolist(), strict=True):
            image.copy_(pixels(picture(self.rows, self.column, index), self.frame))
        return images

    def select(self, indices: Tensor) -> "Pictures":
        return Pictures(self.rows.select(indices.tolist()), self.column, self.frame)


def picture(rows: Any, column: str, index: int) -> Any:
    """One picture of a table, decoded.

    Raises:
        DataError: if it is none.
    """
    try:
        found = rows[index][column]
        if found is None:
            raise ValueError("there is none")
        found.load()
        return found
    # Pillow's decoders raise nearly anything for damaged bytes.
    except Exception as error:
        raise DataError(f"cannot read picture {index} of the column '{column}': {told(error)}") from error


class HuggingFace(UnreadSet):
    """A data set of the Hugging Face Hub, or a local folder that the library `datasets` reads, with images and labels.

    It needs `pip install datasets`. Labels that are text or numbers with gaps are numbered in their order.

    Args:
        name: the name on the Hub, such as `zh-plus/tiny-imagenet`, or a folder: of image files, of parquet files, or
            saved by `save_to_disk`.
        config: which of its configurations, where it has several.
        train: the name of the split that is trained on.
        test: that of the split that is tested on; null takes a fifth of each class from the training images, the same
            for every seed.
        image: the column of images; null takes the only one.
        label: the column of labels; null takes the only column of class labels, or the one called `label`.
        size: side in pixels of the images kept: the shorter side is resized, the central square is kept. Null keeps
            the shape of the first image, which all others are resized to fill.
        download: whether to download the data set if it is not in the library's cache.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        train: str = "train",
        test: str | None = "test",
        image: str | None = None,
        label: str | None = None,
        size: int | None = None,
        download: bool = False,
        augmentation: Augmentation = Augmentation(),
        **source,
    ):
        super().__init__(augmentation=augmentation, **source)
        self.name, self.config, self.train, self.test = name, config, train, test
        self.image, self.label, self.size, self.download = image, label, size, download

    @cached_property
    def tables(self) -> dict[str, Any]:
        """The splits, `datasets.Dataset`, by name.

        Raises:
            DataError: if the data set is not there or cannot be read, or the library is missing.
        """
        return splits(self.name, self.config, self.train, self.download)

    def _table(self, option: str) -> Any:
        name = getattr(self, option)
        if name not in self.tables:
            raise DataError(
                f"benchmark.{option}: '{self.name}' has no such split: {unknown('split', name, self.tables)}"
            )
        return self.tables[name]

    @cached_property
    def columns(self) -> tuple[str, str]:
        """The columns of images and of labels.

        Raises:
            ConfigurationError: if there is no such column, or it is not clear which one it is.
        """
        datasets = _library()
        features = self._table("train").features
        images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
        labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        labels = labels if len(labels) == 1 else [name for name in features if name == "label"]
        return self._column("image", images, images, list(features)), self._column(
            "label", labels, features, list(features)
        )

    def _column(self, option: str, usual: Sequence[str], allowed: Sequence[str], present: Sequence[str]) -> str:
        given = getattr(self, option)
        if given is None and len(usual) != 1:
            raise ConfigurationError(
                f"benchmark.{option} must be given: '{self.name}' has the columns {', '.join(present)}, and "
                f"{'none' if not usual else 'more than one'} of them is surely the one of {option}s"
            )
        if given is not None and given not in allowed:
            raise ConfigurationError(
                f"benchmark.{option} is '{given}', which is no column of {option}s in '{self.name}'; "
                + unknown("column", given, allowed)
            )
        return given or usual[0]

    @cached_property
    def _values(self) -> list[Any]:
        """What stands in the column of labels for each class."""
        datasets = _library()
        column = self.columns[1]
        kind = self._table("train").features[column]
        if isinstance(kind, datasets.ClassLabel):
            return list(range(kind.num_classes))
        values = set(self._table("train")[column])
        if not all(isinstance(value, int) for value in values) and not all(isinstance(value, str) for value in values):
            raise DataError(f"the labels '{column}' of '{self.name}' are neither all whole numbers nor all text")
        return sorted(values)

    @property
    def num_classes(self) -> int:
        return len(self._values)

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label."""
        kind = self._table("train").features[self.columns[1]]
        return list(getattr(kind, "names", None) or map(str, self._values))

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width, for which the first picture is read."""
        table = self._table("train")
        if not len(table):
            raise DataError(f"'{self.name}' has no rows in the split '{self.train}'")
        first = picture(table, self.columns[0], 0)
        channels = 1 if first.mode in ("1", "L", "I;16") else 3
        height, width = (first.height, first.width) if self.size is None else (self.size, self.size)
        return channels, height, width

    def list_samples(self) -> tuple[Samples, Samples]:
        """All rows, of whose images nothing is read but the first.

        Raises:
            DataError: if a row has a label that no training image has.
        """
        train = self._samples("train")
        return drawn_apart(train, 0.2) if self.test is None else (train, self._samples("test"))

    def _samples(self, option: str) -> Samples:
        table, (image, label) = self._table(option), self.columns
        if {image, label} - set(table.column_names):
            raise DataError(
                f"'{self.name}' has no columns '{image}' and '{label}' in the split '{getattr(self, option)}'"
            )
        places = {value: place for place, value in enumerate(self._values)}
        targets = [places.get(value, -1) for value in table[label]]
        if -1 in targets:
            row = targets.index(-1)
            raise DataError(
                f"row {row} of the split '{getattr(self, option)}' of '{self.name}' has the label "
                f"'{table[row][label]}', which is none of the training images'"
                + ("; its labels are not public: take another benchmark.test" if option == "test" else "")
            )
        return Samples(Pictures(table.select_columns([image]), image, self.image_shape), torch.tensor(targets))


def splits(name: str, config: str | None, train: str, download: bool) -> dict[str, Any]:
    """The splits of a data set, `datasets.Dataset`, by name; what the options are, says `HuggingFace`.

    Raises:
        DataError: if the data set is not there or cannot be read, or the library is missing.
    """
    datasets = _library()
    folder = Path(name).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(str(folder)))
        if (folder / "state.json").is_file():
            return {train: datasets.load_from_disk(str(folder))}
        with _offline(not download):
            return dict(datasets.load_dataset(str(folder) if folder.is_dir() else name, config))
    # The library raises errors of many others: of files, of the network, of formats.
    except Exception as error:
        what = "download" if download and not folder.is_dir() else "load"
        way = "" if download or folder.is_dir() else "get it with --benchmark.download true, or "
        raise DataError(
            f"cannot {what} the Hugging Face data set '{name}' ({told(error)}); {way}give a folder that holds it as "
            "--benchmark.name"
        ) from error


def _library() -> Any:
    """Hugging Face's package `datasets`.

    Raises:
        DataError: if it is not installed.
    """
    try:
        found = importlib.import_module("datasets")
        # In a checkout, where the package is missing, the folder of that name is found.
        _ = found.load_dataset
    except (ImportError, AttributeError) as error:
        raise DataError(f"HuggingFace needs `pip install datasets` ({told(error)})") from error
    return found


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Keeps the library from the network, which it would else ask even for what it has."""
    config = _library().config
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
