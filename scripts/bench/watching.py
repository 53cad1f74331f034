"""What watching costs: epochs with a look at 1,000 images every 10 steps, against the same epochs without.

Both train the same ResNet-32 on 100 classes, without and with ACs, in one process and interleaved. One CPU thread
(OMP_NUM_THREADS=1) is timed in CPU seconds, everything else by the wall clock. Beside the overhead stands what it is
made of: the seconds of one look and of one training step.

    python scripts/bench/watching.py                        random images of 3 × 32 × 32
    python scripts/bench/watching.py --root ~/data/set      an image folder: train/<class>/*, test/<class>/*
"""

import argparse
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from timing import seconds

from cl_ac.approach import Batch, TrainingSet
from cl_ac.approaches.finetuning import FineTuning
from cl_ac.backbones.resnet import ResNet32
from cl_ac.benchmark import Task
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_folder import ImageFolder
from cl_ac.network import NO_EXITS, ExitNetwork
from cl_ac.training import EpochReport, Fit, Trainer, Training
from cl_ac.watching.watch import Watch, Watcher

BATCH = 128


def load(root: str | None, images: int, watched: int) -> tuple[Samples, Samples]:
    """`images` training and `watched` test samples of 100 classes, 32 × 32 pixels."""
    stream = torch.Generator().manual_seed(0)
    if root is None:
        pixels = torch.randint(0, 256, (images + watched, 3, 32, 32), dtype=torch.uint8, generator=stream)
        samples = Samples(pixels, torch.arange(images + watched) % 100)
        return samples.select(torch.arange(images)), samples.select(torch.arange(images, images + watched))
    task = ImageFolder(root=str(Path(root).expanduser()), tasks=1, validation=0.0)[0]
    return tuple(
        part.select(torch.randperm(len(part), generator=stream)[:count])
        for part, count in ((task.train, images), (task.test, watched))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="an image folder; random images without")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=20, help="training steps per epoch")
    parser.add_argument("--every", type=int, default=10, help="steps between two looks")
    parser.add_argument("--samples", type=int, default=1000, help="images looked at")
    parser.add_argument("--precision", choices=["training", "bfloat16"], default="training", help="of the looks")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    train, test = load(arguments.root, arguments.steps * BATCH, arguments.samples)
    augmentation = Augmentation((0.5,) * 3, (0.25,) * 3, crop="shift", padding=4, flip=True)
    trainer = Trainer(Training(epochs=1, batch_size=BATCH, lr=0.01, schedule="constant"), augmentation, device)
    task, approach = Task(0, (100,), train, test, test), FineTuning()

    looks = (
        f"looks at {len(test)} images every {arguments.every} steps of {BATCH} images, precision {arguments.precision}"
    )
    table = Table(title=f"{looks}, {device}, {torch.get_num_threads()} threads")
    for column in ("network", "plain s", "watched s", "ratio", "one look, ms", "one step, ms"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, exits in (("ResNet32", None), ("ResNet32 with ACs", "sdn")):
        torch.manual_seed(0)
        body = ResNet32((3, 32, 32))
        network = ExitNetwork(body, body.exits(exits) if exits else NO_EXITS)
        network.grow(100, seed=0)
        network.to(device, memory_format=torch.channels_last)
        watcher = Watcher(Watch(arguments.every, precision=arguments.precision), network, approach, trainer, [task])
        watcher.begin(task, 0)
        counts: list[int] = []

        def epoch(network=network) -> None:
            trainer.fit(Fit(network, approach.loss, TrainingSet(train, task)))

        def watched_epoch(network=network, watcher=watcher, counts=counts) -> None:
            def on_step(network: ExitNetwork, _: Batch, step: int) -> None:
                # Only the regular looks, of which long runs are made: not those after 1, 2, 4, … steps.
                if step % arguments.every == 0:
                    watcher.look(step)

            def on_epoch(report: EpochReport) -> None:
                counts.append(len(watcher.points))
                watcher.end_epoch(report)

            trainer.fit(Fit(network, approach.loss, TrainingSet(train, task)), on_step=on_step, on_epoch=on_epoch)

        for work in (epoch, watched_epoch):
            seconds(device, work)
        rounds = [(seconds(device, epoch), seconds(device, watched_epoch)) for _ in range(arguments.repeats)]
        plain, watched = (statistics.median(times) for times in zip(*rounds, strict=True))
        difference = statistics.median(later - first for first, later in rounds)
        table.add_row(
            name,
            f"{plain:.3f}",
            f"{watched:.3f}",
            f"{statistics.median(later / first for first, later in rounds):.3f}",
            f"{1000 * difference / counts[-1]:.1f}",
            f"{1000 * plain / arguments.steps:.1f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
