"""Seconds per epoch and per evaluation of cl_ac, of Avalanche, and of the usual loop over a DataLoader.

All three train the same network on the same images in the same batches, with plain SGD and the same augmentation
(random shifts by up to 4 pixels, mirror images), each as its users mostly do: cl_ac augments batches, the others
transform one Pillow image at a time with torchvision. They take turns in one process, so that other programs slow them
all down; the ratio is the median over rounds. One CPU thread (OMP_NUM_THREADS=1) is timed in CPU seconds, everything
else by the wall clock. Needs avalanche-lib (the extra `avalanche`).

    python scripts/bench/peers.py --results results/peers-cpu.json
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from timing import seconds
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cl_ac.approach import Task, TrainingSet
from cl_ac.approaches.finetuning import FineTuning
from cl_ac.backbones.resnet import ResNet32
from cl_ac.backbones.small import SmallConvNet
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.network import ExitNetwork
from cl_ac.recording.provenance import cpu_name, provenance
from cl_ac.training import Fit, Trainer, Training

CLASSES, BATCH, LR, PADDING = 20, 128, 0.01, 4
MEAN, STD = (0.5,) * 3, (0.25,) * 3
NETWORKS = {"ResNet32": ResNet32, "SmallConvNet": SmallConvNet}


@dataclass(frozen=True)
class Peer:
    """Something that trains and evaluates a network; either call does one epoch's or one evaluation's work."""

    train: Callable[[], object]
    evaluate: Callable[[], object]


class PillowImages(Dataset):
    """Stored pixels as torchvision's data sets give them: one Pillow image at a time, transformed."""

    def __init__(self, samples: Samples, transform: Callable[[Image.Image], Tensor]):
        self.pixels = samples.images.permute(0, 2, 3, 1).numpy()
        self.targets, self.transform = samples.targets.tolist(), transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.targets[index]


class LastExit(nn.Module):
    """Logits [B, C], as other libraries expect them."""

    def __init__(self, network: ExitNetwork):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[-1]


def build(name: str, device: torch.device) -> ExitNetwork:
    torch.manual_seed(0)
    network = ExitNetwork(NETWORKS[name]((3, 32, 32)))
    network.grow(CLASSES, seed=0)
    return network.to(device)


def draw(count: int, seed: int) -> Samples:
    stream = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=stream)
    return Samples(pixels, torch.arange(count) % CLASSES)


def ours(name: str, train: Samples, test: Samples, device: torch.device) -> Peer:
    network = build(name, device).to(memory_format=torch.channels_last)
    augmentation = Augmentation(MEAN, STD, crop="shift", padding=PADDING, flip=True)
    trainer = Trainer(Training(1, BATCH, lr=LR, schedule="constant", clip=0), augmentation, device)
    task, approach = Task(0, (CLASSES,), train, test, test), FineTuning()

    def evaluate() -> float:
        logits = trainer.predict(network, test)
        return (logits[-1].argmax(-1) == test.targets).double().mean().item()

    return Peer(lambda: trainer.fit(Fit(network, approach.loss, TrainingSet(train, task))), evaluate)


def data_sets(train: Samples, test: Samples) -> tuple[PillowImages, PillowImages]:
    usual = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    augmented = [transforms.RandomCrop(32, PADDING), transforms.RandomHorizontalFlip(), *usual]
    return PillowImages(train, transforms.Compose(augmented)), PillowImages(test, transforms.Compose(usual))


def usual_loop(name: str, train: Samples, test: Samples, device: torch.device, workers: int) -> Peer:
    model = LastExit(build(name, device))
    optimizer = torch.optim.SGD(model.parameters(), LR)
    training, testing = data_sets(train, test)

    def epoch() -> None:
        model.train()
        for images, targets in DataLoader(training, BATCH, shuffle=True, num_workers=workers):
            loss = F.cross_entropy(model(images.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def evaluate() -> float:
        model.eval()
        right = torch.zeros((), device=device)
        for images, targets in DataLoader(testing, BATCH, num_workers=workers):
            right += (model(images.to(device)).argmax(-1) == targets.to(device)).sum()
        return right.item() / len(test)

    return Peer(epoch, evaluate)


def avalanche(name: str, train: Samples, test: Samples, device: torch.device, workers: int) -> Peer:
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    model = LastExit(build(name, device))
    both = map(as_classification_dataset, data_sets(train, test))
    benchmark = benchmark_from_datasets(**{part: [data] for part, data in zip(("train", "test"), both, strict=True)})
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), LR),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=1,
        eval_mb_size=BATCH,
        device=device,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True)),
    )
    experience = next(iter(benchmark.train_stream))
    return Peer(
        lambda: strategy.train(experience, num_workers=workers),
        lambda: strategy.eval(benchmark.test_stream, num_workers=workers),
    )


def compared(device: torch.device, works: Mapping[str, Callable[[], object]], repeats: int) -> list[dict[str, Any]]:
    """A row for each of `works`: median seconds, and the median over rounds of the first one's time over its own."""
    for work in works.values():
        seconds(device, work)
    rounds = [{name: seconds(device, work) for name, work in works.items()} for _ in range(repeats)]
    first = next(iter(works))
    return [
        {
            "who": name,
            "seconds": statistics.median(each[name] for each in rounds),
            f"{first} / it": statistics.median(each[first] / each[name] for each in rounds),
        }
        for name in works
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=1280, help="training images; as many are evaluated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="processes of a DataLoader; with any, time by the clock")
    parser.add_argument("--results", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    train, test = draw(arguments.images, 0), draw(arguments.images, 1)
    rows = []
    for name in NETWORKS:
        peers = {
            "cl_ac": ours(name, train, test, device),
            "Avalanche": avalanche(name, train, test, device, arguments.workers),
            "DataLoader": usual_loop(name, train, test, device, arguments.workers),
        }
        for what in ("train", "evaluate"):
            works = {peer: getattr(value, what) for peer, value in peers.items()}
            found = compared(device, works, arguments.repeats)
            rows += [{"network": name, "what": what, **row} for row in found]
    setting = f"{arguments.images} images of 32 × 32, batches of {BATCH}, {torch.get_num_threads()} threads, {device}"
    table = Table(title=f"seconds per epoch and per evaluation; {setting}")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else value for value in row.values()))
    Console(width=120).print(table)
    if arguments.results:
        settings = {key: value for key, value in vars(arguments).items() if key != "results"}
        hardware = {"threads": torch.get_num_threads(), "cpu": cpu_name()}
        content = {"settings": settings | hardware, "rows": rows, "provenance": provenance()}
        arguments.results.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
