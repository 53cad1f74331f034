"""What a second process gives: one epoch of ResNet32 by one process and by several that share its passes.

Every process has one thread, so on a CPU it is a device of its own. In one launch the first process trains alone while
the others wait, then all of them train together, with batch norm of each part and of the whole batch, in turn. Medians
are reported of the first process: seconds of a step, those in which it exchanges numbers with others or waits for
them, and those of its processor, which tell on a busy machine what the step costs without the waiting.

    python scripts/bench/devices.py                     1 and 2 processes on CPUs, without ACs and with six
    python scripts/bench/devices.py --device cuda --devices 4
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from cl_ac.approach import Task, TrainingSet
from cl_ac.approaches.finetuning import FineTuning
from cl_ac.backbones.resnet import ResNet32
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.network import NO_EXITS, ExitNetwork
from cl_ac.processes.group import ALONE, Group, local_rank, together
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.training import Fit, Trainer, Training

BATCH = 128


WAYS = {"alone": True, "each part": False, "whole batch": True}  # whether batch norm is synchronised


def epochs(way: str, exits: str, images: int, device: str) -> Callable[[], None]:
    """What trains one epoch, in one of the ways."""
    place = torch.device(f"cuda:{local_rank()}" if device == "cuda" else device)
    torch.manual_seed(0)
    backbone = ResNet32((3, 32, 32))
    network = ExitNetwork(backbone, NO_EXITS if exits == "none" else backbone.exits(exits))
    network.grow(100, 0)
    samples = Samples(torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8), torch.arange(images) % 100)
    task = Task(0, (100,), samples, samples, samples)
    training = Training(epochs=1, batch_size=BATCH, schedule="constant", synchronise_batch_norm=WAYS[way])
    trainer = Trainer(training, Augmentation(flip=True), place)
    trainer.group = ALONE if way == "alone" else trainer.group
    network.to(place).to(memory_format=torch.channels_last)

    def epoch() -> None:
        trainer.fit(Fit(network, FineTuning().loss, TrainingSet(samples, task)))
        if place.type == "cuda":
            torch.cuda.synchronize()

    return epoch


def timed(group: Group, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds of a step in each of the ways, those in exchanges and those of the processor, in this process."""
    exchanging = 0.0

    def watched(exchange: Callable[..., None]) -> Callable[..., None]:
        def call(*values: Any, **options: Any) -> None:
            nonlocal exchanging
            began = time.perf_counter()
            exchange(*values, **options)
            exchanging += time.perf_counter() - began

        return call

    dist.all_gather, Group.add_up = watched(dist.all_gather), watched(Group.add_up)
    made = {way: epochs(way, arguments.exits, arguments.images, arguments.device) for way in WAYS}
    rounds: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds + 1):
        for way, epoch in made.items():
            group.wait()
            if way != "alone" or group.is_first:
                exchanging, processor, began = 0.0, time.process_time(), time.perf_counter()
                epoch()
                took = time.perf_counter() - began, exchanging, time.process_time() - processor
                rounds[way] += [took] if number else []
    steps = -(-arguments.images // BATCH)
    names = ("step", "exchange", "processor")
    return {
        way: {name: statistics.median(each) / steps for name, each in zip(names, zip(*found, strict=True), strict=True)}
        for way, found in rounds.items()
        if found
    }


def measured(arguments: argparse.Namespace, exits: str) -> dict[str, dict[str, float]]:
    """What the first of as many fresh processes measures."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "times.json"
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(arguments.devices)]
        options = ["--images", str(arguments.images), "--device", arguments.device, "--rounds", str(arguments.rounds)]
        command = [sys.executable, *launch, __file__, "--write", str(file), "--exits", exits, *options]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return dict(json.loads(file.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--exits", default="sdn")
    parser.add_argument("--results", type=Path, help="write the measurements to this JSON file")
    parser.add_argument("--write", help="for the processes that this script starts")
    arguments = parser.parse_args()
    if arguments.write:
        with together() as group:
            times = timed(group, arguments)
            if group.is_first:
                Path(arguments.write).write_text(json.dumps(times))
        return
    table = Table("exits", "processes", "batch norm of", "ms per step", "exchanging", "processor", "speed-up")
    rows = []
    load = os.getloadavg()[0]
    for exits in ("none", arguments.exits):
        found = measured(arguments, exits)
        for way, times in found.items():
            speed_up = found["alone"]["step"] / times["step"]
            count = 1 if way == "alone" else arguments.devices
            batch_norm = "whole batch" if way == "alone" else way
            milliseconds = (f"{1000 * value:.0f}" for value in times.values())
            table.add_row(exits, str(count), batch_norm, *milliseconds, f"{speed_up:.2f}×")
            row = {"exits": exits, "processes": count, "batch_norm": batch_norm, **times, "speed_up": speed_up}
            rows.append(row)
    Console().print(table)
    if arguments.results:
        made = {**provenance(), "load_before": load}
        content = json.dumps({"unit": "seconds", "rows": rows, "provenance": made}, indent=2)
        write_atomically(arguments.results, lambda file: file.write_text(content + "\n"))


if __name__ == "__main__":
    main()
