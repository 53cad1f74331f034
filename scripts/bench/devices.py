"""What a second process gives: one epoch of ResNet32 by one process and by several that share its passes.

Every process has one thread, so on a CPU it is a device of its own. Rounds alternate; medians are reported, with the
time that the first process waits for others and exchanges numbers with them.

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
from pathlib import Path

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
from cl_ac.processes.group import local_rank, together
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.training import Fit, Trainer, Training

BATCH = 128


def timed(exits: str, images: int, device: str, local_batch_norm: bool) -> dict[str, float]:
    """Seconds of a step, and of those spent in exchanges, in this process."""
    exchanging = 0.0

    def watched(exchange):
        def call(*arguments, **options):
            nonlocal exchanging
            began = time.perf_counter()
            exchange(*arguments, **options)
            exchanging += time.perf_counter() - began

        return call

    dist.all_reduce, dist.all_gather = watched(dist.all_reduce), watched(dist.all_gather)
    place = torch.device(f"cuda:{local_rank()}" if device == "cuda" else device)
    torch.manual_seed(0)
    backbone = ResNet32((3, 32, 32))
    network = ExitNetwork(backbone, NO_EXITS if exits == "none" else backbone.exits(exits))
    network.grow(100, 0)
    samples = Samples(torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8), torch.arange(images) % 100)
    task = Task(0, (100,), samples, samples, samples)
    shared = {"synchronise_batch_norm": not local_batch_norm}
    training = Training(epochs=1, batch_size=BATCH, schedule="constant", **shared)
    trainer = Trainer(training, Augmentation(flip=True), place)
    network.to(place).to(memory_format=torch.channels_last)

    def epoch() -> float:
        began = time.perf_counter()
        trainer.fit(Fit(network, FineTuning().loss, TrainingSet(samples, task)))
        if place.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    epoch()
    exchanging = 0.0
    steps = -(-images // BATCH)
    return {"step": epoch() / steps, "exchange": exchanging / steps}


def measured(devices: int, arguments: argparse.Namespace, exits: str) -> dict[str, float]:
    """What the first of as many fresh processes measures."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "times.json"
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)]
        command = [sys.executable, *(launch if devices > 1 else []), __file__, "--write", str(file)]
        options = ["--images", str(arguments.images), "--device", arguments.device, "--exits", exits]
        options += ["--local_batch_norm"] if arguments.local_batch_norm else []
        subprocess.run([*command, *options], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return dict(json.loads(file.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exits", default="sdn")
    parser.add_argument("--local_batch_norm", action="store_true", help="each process normalises its own part")
    parser.add_argument("--results", type=Path, help="write the measurements to this JSON file")
    parser.add_argument("--write", help="for the processes that this script starts")
    arguments = parser.parse_args()
    if arguments.write:
        with together() as group:
            times = timed(arguments.exits, arguments.images, arguments.device, arguments.local_batch_norm)
            if group.is_first:
                Path(arguments.write).write_text(json.dumps(times))
        return
    table = Table("exits", "processes", "ms per step", "ms exchanging", "speed-up")
    rows = []
    for exits in ("none", arguments.exits):
        rounds = [{n: measured(n, arguments, exits) for n in (1, arguments.devices)} for _ in range(arguments.rounds)]
        alone = statistics.median(each[1]["step"] for each in rounds)
        for count in (1, arguments.devices):
            step = statistics.median(each[count]["step"] for each in rounds)
            exchange = statistics.median(each[count]["exchange"] for each in rounds)
            row = f"{1000 * step:.0f}", f"{1000 * exchange:.1f}", f"{alone / step:.2f}×"
            table.add_row(exits, str(count), *row)
            rows.append(
                {"exits": exits, "processes": count, "step": step, "exchange": exchange, "speed_up": alone / step}
            )
    Console().print(table)
    if arguments.results:
        content = json.dumps({"unit": "seconds", "rows": rows, "provenance": provenance()}, indent=2)
        write_atomically(arguments.results, lambda file: file.write_text(content + "\n"))


if __name__ == "__main__":
    main()
