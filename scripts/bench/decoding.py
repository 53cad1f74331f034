"""How fast images are read that stay in their files, beside torchvision's folder and torch's loader.

Makes JPEGs of random smooth pictures, with sides of 240 to 336 pixels, and reads all of them once in random
order, with each reader in turn: `bytes`, upright squares of 256 pixels as bytes; `inputs`, random crops of 224 pixels,
mirrored, normalised, as floats. torchvision crops each picture as it reads it, cl_ac crops batches. One thread for each
process; seconds are those of the clock.

    OMP_NUM_THREADS=1 python scripts/bench/decoding.py
    OMP_NUM_THREADS=1 python scripts/bench/decoding.py --images 2000 --workers 0 --results results/decoding-cpu.json
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder as TorchvisionFolder

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.loading import Loader
from cl_ac.data.samples import Samples
from cl_ac.data.tasks import Task
from cl_ac.datasets.image_files import IMAGENET_MEAN, IMAGENET_STD, PHOTOGRAPHS
from cl_ac.datasets.image_folder import ImageFolder
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance

CLASSES, SIDE, CROP = 10, 256, 224


def make_images(root: Path, count: int) -> None:
    """`count` JPEGs for training in folders of classes, and one for testing in each class."""

    def make(place: tuple[Path, int]) -> None:
        path, seed = place
        random = numpy.random.default_rng(seed)
        sides = SIDE - 16 + random.integers(0, 96, 2)
        rough = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=numpy.uint8))
        rough.resize(tuple(int(side) for side in sides), Image.Resampling.BICUBIC).save(path, quality=90)

    places = []
    for part, images in (("train", count), ("test", CLASSES)):
        for label in range(CLASSES):
            (root / part / f"class_{label}").mkdir(parents=True)
        places += [(root / part / f"class_{i % CLASSES}" / f"{i:06}.jpg", i) for i in range(images)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, places))


def ours(samples: Samples, augmentation: Augmentation, batch: int, workers: int) -> Iterator[Tensor]:
    """The inputs of one epoch."""
    loader = Loader(samples, augmentation, torch.device("cpu"), workers)
    task = Task(0, (CLASSES,), samples, samples, samples)
    for each in loader.shuffled(batch, len(samples), torch.Generator().manual_seed(0), task):
        yield each.images


def our_bytes(samples: Samples, batch: int, workers: int) -> Iterator[Tensor]:
    """The stored images of one epoch."""
    loader = Loader(samples, PHOTOGRAPHS, torch.device("cpu"), workers)
    order = loader.order(len(samples), torch.Generator().manual_seed(0))
    yield from loader._decoded(order.split(batch))


def theirs(root: Path, steps: list, batch: int, workers: int) -> Iterator[Tensor]:
    """One epoch of torchvision's folder."""
    folder = TorchvisionFolder(str(root / "train"), transforms.Compose(steps))
    for images, _ in DataLoader(folder, batch, shuffle=True, num_workers=workers):
        yield images


def seconds(epoch: Callable[[int], Iterator[Tensor]], workers: int) -> float:
    """How long one epoch takes to read."""
    began = time.perf_counter()
    for _ in epoch(workers):
        pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_images(root, options.images)
        samples, _ = ImageFolder(str(root), size=SIDE, in_memory=False).list_samples()
        square = [transforms.Resize(SIDE), transforms.CenterCrop(SIDE)]
        crop = [transforms.RandomResizedCrop(CROP), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        readers = {
            "bytes": (
                lambda workers: our_bytes(samples, options.batch, workers),
                lambda workers: theirs(root, [*square, transforms.PILToTensor()], options.batch, workers),
            ),
            "inputs": (
                lambda workers: ours(samples, PHOTOGRAPHS, options.batch, workers),
                lambda workers: theirs(
                    root, [*crop, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)], options.batch, workers
                ),
            ),
        }
        rows = []
        for name, pair in readers.items():
            for workers in options.workers:
                times: tuple[list[float], list[float]] = ([], [])
                for _ in range(options.repeats):
                    for kept, reader in zip(times, pair, strict=True):
                        kept.append(seconds(reader, workers))
                own, other = (options.images / median(each) for each in times)
                rows.append(
                    {"what": name, "workers": workers, "cl_ac": own, "torchvision": other, "ratio": own / other}
                )
    table = Table(title=f"images a second, median of {options.repeats} epochs of {options.images} JPEGs")
    for column in ("what", "workers", "cl_ac", "torchvision", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            *(str(v) if not isinstance(v, float) else f"{v:.2f}" if v < 10 else f"{v:.0f}" for v in row.values())
        )
    Console().print(table)
    if options.results:
        content = json.dumps({"images": options.images, "rows": rows, "provenance": provenance()}, indent=2)
        write_atomically(options.results, lambda file: file.write_text(content + "\n"))


if __name__ == "__main__":
    main()
