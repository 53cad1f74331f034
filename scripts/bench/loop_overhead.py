"""What the training loop costs beside the network.

Compares, in one process and interleaved:
- an epoch of `Trainer.fit` (shuffling, augmentation, replay plumbing, clipping, bookkeeping) with a bare loop over
  ready-made batches on the same network: forward, loss, backward, optimiser step;
- the same with a tiny network, as milliseconds per batch beside the network;
- `Trainer.predict` at every exit with a bare batched forward.

One CPU thread (OMP_NUM_THREADS=1) is timed in CPU seconds, everything else by the wall clock.

    python scripts/bench/loop_overhead.py                        random images of 3 × 32 × 32
    python scripts/bench/loop_overhead.py --root ~/data/set      an image folder: train/<class>/*, test/<class>/*
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from timing import seconds
from torch import Tensor, nn

from cl_ac.approach import TrainingSet
from cl_ac.approaches.finetuning import FineTuning
from cl_ac.backbones.resnet import ResNet32
from cl_ac.benchmark import Task
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_folder import ImageFolder
from cl_ac.network import NO_EXITS, Backbone, ExitNetwork
from cl_ac.training import Fit, Trainer, Training

BATCH = 128


class TinyNet(Backbone):
    """Adaptive pooling and one linear layer: as good as no network."""

    def __init__(self, image_shape: tuple[int, int, int]):
        stages = {"pool": nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 64), nn.ReLU())}
        super().__init__(image_shape, stages)


def load(root: str | None, images: int) -> Samples:
    """`images` training samples of 100 classes."""
    if root is None:
        stream = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=stream)
        return Samples(pixels, torch.arange(images) % 100)
    train = ImageFolder(root=str(Path(root).expanduser()), tasks=1, validation=0.0)[0].train
    return train.select(torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:images])


def build(backbone: type[Backbone], exits: str | None, device: torch.device) -> ExitNetwork:
    torch.manual_seed(0)
    body = backbone((3, 32, 32))
    network = ExitNetwork(body, body.exits(exits) if exits else NO_EXITS)
    network.grow(100, seed=0)
    return network.to(device, memory_format=torch.channels_last)


def bare_epoch(network: ExitNetwork, batches: list[tuple[Tensor, Tensor]]) -> None:
    """What nobody can leave out."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, fused=True)
    for images, targets in batches:
        loss = F.cross_entropy(network(images)[-1], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def interleaved(device: torch.device, repeats: int, *works: Callable[[], object]) -> list[list[float]]:
    """Seconds of each of `works`, run in turn `repeats` times after one warm-up."""
    for work in works:
        seconds(device, work)
    rounds = [[seconds(device, work) for work in works] for _ in range(repeats)]
    return [list(times) for times in zip(*rounds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="an image folder; random images without")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=2560, help="images per epoch")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    samples = load(arguments.root, arguments.images)
    augmentation = Augmentation((0.5,) * 3, (0.25,) * 3, crop="resized", padding=4, flip=True)
    training = Training(epochs=1, batch_size=BATCH, lr=0.01, schedule="constant")
    trainer = Trainer(training, augmentation, device)
    task = Task(0, (100,), samples, samples, samples)
    inputs = augmentation.apply(samples.images).to(device)
    batches = list(zip(inputs.split(BATCH), samples.targets.to(device).split(BATCH), strict=True))
    steps = len(batches)

    approach = FineTuning()
    table = Table(title=f"{arguments.images} images, batches of {BATCH}, {device}, {torch.get_num_threads()} threads")
    for column in ("what", "bare s", "cl_ac s", "ratio", "beside the network, ms/batch"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, backbone, repeats in (
        ("ResNet32", ResNet32, arguments.repeats),
        ("tiny net", TinyNet, 4 * arguments.repeats),
    ):
        network = build(backbone, None, device)
        bare, ours = interleaved(
            device,
            repeats,
            lambda network=network: bare_epoch(network, batches),
            lambda network=network: trainer.fit(Fit(network, approach.loss, TrainingSet(samples, task))),
        )
        add_row(table, f"training epoch, {name}", bare, ours, steps)
    network = build(ResNet32, "sdn", device).eval()
    evaluated = samples.select(torch.arange(2 * len(samples)) % len(samples))
    parts = augmentation.apply(evaluated.images).to(device).split(256)

    def bare_forward() -> None:
        with torch.inference_mode():
            for part in parts:
                network(part).cpu()

    bare, ours = interleaved(device, arguments.repeats, bare_forward, lambda: trainer.predict(network, evaluated))
    add_row(table, f"evaluation of {len(evaluated)} images at {len(network)} exits", bare, ours, len(parts))
    Console(width=120).print(table)


def add_row(table: Table, name: str, bare: list[float], ours: list[float], steps: int) -> None:
    """Medians, the median of the ratios of each round, and the difference per batch."""
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    difference = statistics.median(mine - theirs for mine, theirs in zip(ours, bare, strict=True))
    table.add_row(
        name,
        f"{statistics.median(bare):.3f}",
        f"{statistics.median(ours):.3f}",
        f"{ratio:.3f}",
        f"{1000 * difference / steps:.2f}",
    )


if __name__ == "__main__":
    main()
